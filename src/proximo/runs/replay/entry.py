"""One update as it was: what it began with, learnt from and came to; in memory and in a file."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from proximo.errors import MALFORMED, UserError
from proximo.runs.config.toml import from_mapping
from proximo.runs.replay.undo import Snapshot
from proximo.runs.storage import checkpoint
from proximo.runs.storage.checkpoint import load_checkpoint, save_checkpoint

Config = TypeVar("Config")

NAME = "last"
"""Of the one folder in RUN/replay, which is written as checkpoints are."""


@dataclass(frozen=True)
class Entry:
    """One update."""

    iteration: int
    """Counted from 0, as `proximo doctor` counts."""
    progress: float
    """Share of the run that was done, for the schedules."""
    before: Snapshot
    learnt: Mapping[str, Tensor]
    """What it learnt from, by names that the run's world gives and reads."""
    facts: Mapping[str, Any]
    """The same, for what is no tensor; JSON."""
    after: Tensor | None = None
    """All that is trained once it was done, `[P]`; None if it failed."""
    report: Mapping[str, Any] | None = None
    """What was reported of it; None if it failed."""

    @property
    def size(self) -> int:
        """Bytes."""
        held = [self.before.weights, *self.before.moments.values(), *self.learnt.values()]
        return sum(x.nbytes for x in held + ([] if self.after is None else [self.after]))


@dataclass(frozen=True)
class Kept:
    """What a run keeps of its last updates."""

    run: Mapping[str, Any]
    """What is the same for all: the run's settings and its world's description of it; JSON."""
    entries: Sequence[Entry]
    """The oldest first."""

    def config(self, cls: type[Config]) -> Config:
        """The run's configuration when the updates were done.

        Raises:
            UserError: it can not be read.
        """
        where = "the kept updates"
        try:
            mapping = tomllib.loads(self.run["config"])
        except MALFORMED as error:
            raise UserError(
                f"the configuration in {where} can not be read ({error}): restore them from a copy"
            ) from error
        return from_mapping(cls, mapping, where=where)

    def choose(self, iteration: int | None) -> Entry:
        """The entry of an iteration; the newest if None.

        Raises:
            UserError: it is not kept.
        """
        if iteration is None:
            return self.entries[-1]
        for entry in self.entries:
            if entry.iteration == iteration:
                return entry
        there = ", ".join(str(entry.iteration) for entry in self.entries)
        raise UserError(f"iteration {iteration} is not kept; choose --iteration from {there}")


def write(folder: Path, kept: Kept) -> None:
    """Write all entries as one, in the place of those that were there.

    Raises:
        UserError: it can not be written.
    """
    tensors: dict[str, Tensor] = {}
    for entry in kept.entries:
        mine = {"before/weights": entry.before.weights} | {f"learnt/{name}": x for name, x in entry.learnt.items()}
        mine |= {f"before/moments/{name}": x for name, x in entry.before.moments.items()}
        mine |= {f"before/generators/{name}": x for name, x in entry.before.generators.items()}
        if entry.after is not None:
            mine["after"] = entry.after
        tensors |= {f"{entry.iteration}/{name}": x for name, x in mine.items()}
    entries = [
        {
            "iteration": entry.iteration,
            "progress": entry.progress,
            "learning_rate": entry.before.learning_rate,
            "numbers": dict(entry.before.numbers),
            "facts": dict(entry.facts),
            "report": None if entry.report is None else dict(entry.report),
        }
        for entry in kept.entries
    ]
    save_checkpoint(folder, NAME, tensors, {"run": dict(kept.run), "entries": entries})


def read(folder: Path) -> Kept:
    """What `write` wrote.

    Args:
        folder: `replay` of a run.

    Raises:
        UserError: nothing is there, or it is damaged.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder.parent} keeps no updates: it has not come to its first checkpoint, its replay_mb is less than "
            "one takes, or several ranks have trained it, which keep none (docs/scaling.md)"
        )
    tensors, state = load_checkpoint(folder / NAME)
    try:
        entries = [_entry(tensors, row) for row in state["entries"]]
        if not entries:
            raise ValueError("it is empty")
        return Kept(dict(state["run"]), entries)
    except MALFORMED as error:
        raise UserError(f"{folder} does not hold the updates of a run ({error}): restore it from a copy") from error


def _entry(tensors: Mapping[str, Tensor], row: Mapping[str, Any]) -> Entry:
    mine = under(f"{int(row['iteration'])}/", tensors)
    before = Snapshot(
        mine["before/weights"],
        under("before/moments/", mine),
        float(row["learning_rate"]),
        under("before/generators/", mine),
        {str(name): float(x) for name, x in row["numbers"].items()},
    )
    report = None if row["report"] is None else dict(row["report"])
    learnt, facts = under("learnt/", mine), dict(row["facts"])
    return Entry(int(row["iteration"]), float(row["progress"]), before, learnt, facts, mine.get("after"), report)


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    # Copied: a file's tensors lie anywhere, and how a product is summed may depend on that.
    return {name: torch.clone(x) for name, x in checkpoint.under(prefix, tensors).items()}
