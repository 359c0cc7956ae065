"""Stopping at the next whole step: Ctrl-C and a job scheduler's SIGTERM ask, the run answers when it is ready."""

import signal
import threading
from types import FrameType
from typing import Any, Self


class StopRequest:
    """While open, SIGINT and SIGTERM set `requested`; a Ctrl-C after a request raises KeyboardInterrupt.

    Outside the main thread, where Python allows no handlers, it does nothing. A signal that was ignored on entry
    (SIGINT of a background job) stays ignored.
    """

    def __init__(self) -> None:
        self.requested: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside Python

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.requested is not None:
            raise KeyboardInterrupt
        self.requested = self.requested or signal.Signals(number).name
