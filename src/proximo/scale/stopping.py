"""Signals that a launcher hears for those that it has started."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def on_signal(stop: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT, and what else asks a process to end as SIGTERM, call `stop` in the place of ending this one."""
    heard = _STOPPING if threading.current_thread() is threading.main_thread() else ()

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
