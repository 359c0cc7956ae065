"""One training at a time in a process: torch has one stream of random numbers for all of its threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proximo.errors import UserError


@dataclass(eq=False)
class _Training:
    what: str
    thread: threading.Thread


_CHANGES = threading.RLock()  # a trainer may be collected, and so ended, within
_going: list[_Training] = []


def _others() -> list[str]:
    """What other threads train."""
    here = threading.current_thread()
    return [x.what for x in _going if x.thread is not here and x.thread.is_alive()]


def others_train() -> bool:
    """Whether another thread of this process trains now: the streams of random numbers are its own."""
    with _CHANGES:
        return bool(_others())


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Keep other threads of this process from training meanwhile; a training within a training's thread is its own.

    One that was begun in a thread that has ended, as a loop over a trainer may be, keeps nobody away, and may be ended
    in any.

    Args:
        what: is trained, for the message.

    Raises:
        UserError: another thread trains.
    """
    mine = _Training(what, threading.current_thread())
    with _CHANGES:
        others = _others()
        if others:
            raise UserError(
                f"{what} can not be trained while another thread of this process trains {others[-1]}: both would draw "
                "from one stream of random numbers, so neither would be the run of its seed; train them in processes "
                "of their own, or one after the other"
            )
        _going.append(mine)
    try:
        yield
    finally:
        with _CHANGES:
            _going.remove(mine)
