"""Stopping at the next whole step. Ctrl-C, a scheduler's SIGTERM and a terminal that closes ask for it; the run answers
when it is ready.
"""

import signal
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

from proximo.scale.stopping import asking

PATIENCE = 5.0
"""Seconds that an iteration may take to end after a request; schedulers kill after 30 s, some after 10."""

_HAS_TIMER = hasattr(signal, "setitimer")  # not on Windows, where an iteration is always ended


_open: weakref.WeakSet["StopRequest"] = weakref.WeakSet()


def ask(who: str) -> None:
    """Ask the trainings of this process to stop: what a signal would, where Python has no handlers (Ray's workers).

    Args:
        who: asks, a signal's name.
    """
    for request in list(_open):
        request.requested = request.requested or who


class Interrupted(BaseException):
    """Leaves an interruptible block. It is no `Exception`, so that code which reports errors does not catch it."""


class StopRequest:
    """While open, the signals of `asking` set `requested`; a Ctrl-C after a request raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Args:
        patience: Seconds after a request at which `interruptible` code is left.
    """

    def __init__(self, patience: float = PATIENCE) -> None:
        self.requested: str | None = None
        self._patience, self._deadline, self._within = patience, 0.0, False
        self._previous: dict[signal.Signals, Any] = {}

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Code that may be left half-way because the caller can go back to before it.

        Raises:
            Interrupted: `patience` seconds have passed since a request.
        """
        self._within = True
        try:
            if self.requested is not None:
                self._wake_at_deadline()
            yield
        finally:
            self._within = False

    def __enter__(self) -> Self:
        _open.add(self)
        if threading.current_thread() is threading.main_thread():
            for number in asking():
                self._previous[number] = signal.signal(number, self._handle)
            if _HAS_TIMER:
                self._previous[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._wake)
        return self

    def __exit__(self, *_: object) -> None:
        _open.discard(self)
        if _HAS_TIMER and self._previous:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside Python

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested is not None:
            raise KeyboardInterrupt
        if self.requested is None:
            self.requested = signal.Signals(number).name
            self._deadline = time.monotonic() + self._patience
            self._wake_at_deadline()

    def _wake_at_deadline(self) -> None:
        if _HAS_TIMER and self._previous:
            signal.setitimer(signal.ITIMER_REAL, max(self._deadline - time.monotonic(), 1e-3))

    def _wake(self, _number: int, _frame: FrameType | None) -> None:
        if self._within:
            raise Interrupted
