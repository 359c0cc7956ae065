"""Signals that ask to stop, and a launcher that hears them for those that it has started."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def asking(*names: str) -> list[signal.Signals]:
    """The signals that ask this process to stop, of those named, or of SIGINT, SIGTERM and SIGHUP.

    Not what it was told to ignore before: SIGINT of a background job, SIGHUP under `nohup`.
    """
    known = [getattr(signal, name) for name in names or ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return [number for number in known if signal.getsignal(number) is not signal.SIG_IGN]


@contextmanager
def on_signal(stop: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT, and the others of `asking` as SIGTERM, call `stop` in the place of ending this process."""
    heard = asking() if threading.current_thread() is threading.main_thread() else ()

    def hear(number: int, _: object) -> None:
        stop(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside Python


class Stops:
    """Signals that were heard; upon the third, who does not hear is given up."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._count = 0

    def __call__(self, number: int) -> None:
        """Hear one.

        Raises:
            KeyboardInterrupt: it is the third.
        """
        self.first, self._count = self.first or number, self._count + 1
        if self._count > 2:
            raise KeyboardInterrupt
