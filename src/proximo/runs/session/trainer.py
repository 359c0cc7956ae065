"""What the trainers of both worlds share: a training that is iterated, asked, stopped and saved."""

import atexit
import inspect
import os
import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

from proximo.runs.console.progress import Mode
from proximo.runs.console.streams import say
from proximo.runs.session.session import Session, Trained
from proximo.scale.meeting import mesh_so_far

STOPPED = "trainer.stop()"
"""Why a run ended that its own loop or a callback has stopped."""

Result = TypeVar("Result")

_left_open: list[weakref.ref[Generator[dict[str, Any], None, None]]] = []
"""In the order in which they began, which is the same on all ranks."""


@atexit.register
def _save_what_is_left_open() -> None:
    """Close iterations that a script has left with `next`: later there are no modules any more to save with.

    Ranks save together. Where one has failed the others may be anywhere, so nothing is saved then.
    """
    if getattr(sys, "last_value", None) is not None and not mesh_so_far().alone:
        return
    for reference in _left_open:
        rows = reference()
        if rows is None or inspect.getgeneratorstate(rows) == inspect.GEN_RUNNING:  # in a thread that goes on
            continue
        try:
            rows.close()
        except Exception as error:
            say(f"proximo: a training that the script left open could not be saved: {error}")


os.register_at_fork(after_in_child=_left_open.clear)  # they are the parent's


class IteratedTrainer(ABC, Generic[Result]):
    """A training as an iterator of its metrics."""

    run: Result | None = None
    """Results and folder; None while it trains."""
    _training: Trained | None = None
    _session: Session | None = None
    """While it is iterated."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Start, or resume from the last checkpoint; each iteration's metrics by name.

        A loop that is left, by `break`, by an error or at the end of the script, leaves a checkpoint.

        Raises:
            UserError: something the user can mend.
        """
        rows = self._rows()
        _left_open[:] = [each for each in _left_open if each() is not None]
        _left_open.append(weakref.ref(rows))
        return rows

    @abstractmethod
    def _rows(self) -> Generator[dict[str, Any], None, None]:
        """See `__iter__`."""

    @property
    def step(self) -> int:
        """Environment steps or responses so far."""
        return 0 if self._training is None else self._training.done

    def stop(self) -> None:
        """End this call after the iteration in progress, with a checkpoint; iterating again resumes."""
        if self._session is not None:
            self._session.stop.requested = self._session.stop.requested or STOPPED

    def save(self) -> None:
        """Write a checkpoint now."""
        if self._session is not None:
            self._session.save()

    def to_the_end(self) -> Result:
        """Iterate until the training ends or is stopped."""
        for _ in self:
            pass
        assert self.run is not None
        return self.run


def say_finished_before(folder: Path, mode: Mode) -> None:
    """Tell who called from Python that nothing was trained; the command line says it in its own words."""
    if mode != "quiet":
        say(f"{folder} was finished before: nothing is trained (run= names another)")
