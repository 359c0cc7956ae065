"""One training at a time in a process: torch has one stream of random numbers for all of its threads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from proximo.errors import UserError

_TURN = threading.RLock()
_who: list[str] = []


@contextmanager
def alone(what: str) -> Iterator[None]:
    """Keep other threads of this process from training meanwhile; a training within a training's thread is its own.

    Args:
        what: is trained, for the message.

    Raises:
        UserError: another thread trains.
    """
    if not _TURN.acquire(blocking=False):
        other = _who[-1] if _who else "another"
        raise UserError(
            f"{what} can not be trained while another thread of this process trains {other}: both would draw from one "
            "stream of random numbers, so neither would be the run of its seed; train them in processes of their own, "
            "or one after the other"
        )
    _who.append(what)
    try:
        yield
    finally:
        _who.pop()
        _TURN.release()
