"""What the trainers of both worlds share: a training that is iterated, asked, stopped and saved."""

import atexit
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Generic, TypeVar

from proximo.runs.console.progress import Mode
from proximo.runs.console.streams import say
from proximo.runs.session.session import Session, Trained

STOPPED = "trainer.stop()"
"""Why a run ended that its own loop or a callback has stopped."""

Result = TypeVar("Result")

_left_open = weakref.WeakSet[Generator[dict[str, Any], None, None]]()


@atexit.register
def _save_what_is_left_open() -> None:
    """Close iterations that a script has left with `next`: later there are no modules any more to save with."""
    for rows in list(_left_open):
        with suppress(ValueError):  # it runs, in a thread that goes on
            rows.close()


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
        _left_open.add(rows)
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
