"""The last updates of a run in memory, within a bound, and on the disk when a checkpoint is."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proximo.core.updates.optimizer import Optimizer
from proximo.core.updates.update import UpdateReport
from proximo.runs.replay.entry import Entry, Kept, write
from proximo.runs.replay.undo import Undo

LAST = 8
"""How many updates are kept at most."""


class Ring:
    """What the last updates began with, learnt from and came to.

    Args:
        undo: its copies are held on to, not copied again.
        optimizer: of the updates.
        megabytes: bound of all that is kept; 0 keeps nothing. An update that fails is kept whatever it takes.
        run: gives what is the same for all updates, JSON, when it is written.
    """

    def __init__(
        self, undo: Undo, optimizer: Optimizer, megabytes: float, run: Callable[[], Mapping[str, Any]]
    ) -> None:
        self._undo, self._optimizer, self._bound = undo, optimizer, megabytes * 1e6
        self._run = run
        self.entries: deque[Entry] = deque()
        self.current: Entry | None = None
        """The update in progress or just done; its tensors are the run's own, which are used again."""
        self._told = False

    def forget(self) -> None:
        """A new iteration begins: the tensors of the last one may go, unless they are kept."""
        self.current = None

    def begin(
        self, iteration: int, progress: float, learnt: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None
    ) -> None:
        """An update is about to be done, after `undo.remember`.

        Args:
            iteration: counted from 0.
            progress: share of the run that is done.
            learnt: what it learns from; copied once it is done.
            facts: the same, for what is no tensor.
        """
        if (before := self._undo.snapshot) is not None:  # without a copy to go back to there is nothing to begin with
            self.current = Entry(iteration, progress, before, learnt, facts or {})

    def end(self, report: UpdateReport) -> None:
        """It is done."""
        if self.current is None:
            return
        values = {"values": dict(report.values), "steps": report.steps, "stopped_by_kl": report.stopped_by_kl}
        self.current = replace(self.current, report=values)
        if self._one() > self._bound:
            return
        learnt = {name: x.detach().to("cpu", copy=True) for name, x in self.current.learnt.items()}
        after = self._optimizer.flat.detach().to("cpu", copy=True)
        self.current = replace(self.current, learnt=learnt, after=after)
        self.entries.append(self.current)
        while len(self.entries) > LAST or sum(entry.size for entry in self.entries) > self._bound:
            self.entries.popleft()

    def news(self) -> str | None:
        """What is kept and what it takes, said once; None when it was said or is not known."""
        if self._told or self._bound <= 0 or self.current is None:
            return None
        self._told = True
        one, fit = _shown(self._one() / 1e6), min(LAST, int(self._bound // self._one()))
        if not fit:
            bound = f"{self._bound / 1e6:g}"
            return f"replay: an update takes {one} MB, so that replay_mb = {bound} keeps none but one that fails"
        return f"replay: the last {fit} updates are kept, {one} MB each, in memory and at checkpoints on the disk"

    def write(self, folder: Path) -> None:
        """Write what is kept, if anything is.

        Raises:
            UserError: it can not be written.
        """
        if self.entries:
            write(folder, self._kept(list(self.entries)))

    def write_failed(self, folder: Path) -> bool:
        """Write what is kept with the update that has just failed, whatever it takes; False if none was begun."""
        if self.current is None:
            return False
        before = [entry for entry in self.entries if entry.iteration != self.current.iteration]
        write(folder, self._kept([*before, self.current]))
        return True

    def _kept(self, entries: list[Entry]) -> Kept:
        # Threads and device decide the last bits.
        machine = {"threads": torch.get_num_threads(), "device": self._optimizer.flat.device.type}
        return Kept({**self._run(), **machine}, entries)

    def _one(self) -> int:
        """Bytes of the current update, once it is done."""
        assert self.current is not None
        return self.current.size + (self.current.before.weights.nbytes if self.current.after is None else 0)


def _shown(megabytes: float) -> str:
    return f"{megabytes:,.0f}" if megabytes >= 10 else f"{megabytes:.2g}"
