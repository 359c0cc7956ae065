"""A kept update done again, compared with what it was, and beside the same with one setting changed."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from proximo.errors import MALFORMED, UserError
from proximo.runs.replay.change import changed
from proximo.runs.replay.entry import Entry, Kept
from proximo.runs.replay.learner import Learner
from proximo.runs.replay.redo import Outcome, Sample, repeat


@dataclass(frozen=True)
class World:
    """What a run's world knows of its updates."""

    config: Any
    """Of the run."""
    settable: list[str]
    """Dotted names of the settings that enter an update."""
    make: Callable[[Entry, Any], Learner]
    """An update before it is done, with a configuration."""


@dataclass(frozen=True)
class Replay:
    """What came of it."""

    iteration: int
    kept: tuple[int, ...]
    """All iterations that are kept."""
    devices: tuple[str, str]
    """What it ran on in the run, and here."""
    failed: bool
    """Whether the update failed in the run."""
    differing: Mapping[str, float]
    """Trained tensors that are not what they were in the run, and the largest difference."""
    again: Outcome
    step: float
    """Change of the weights, in the Euclidean norm."""
    change: str | None = None
    """`KEY=VALUE`."""
    other: Outcome | None = None
    """With the change."""
    other_step: float | None = None

    @property
    def exact(self) -> bool:
        """Whether it is what it was in the run, to the last bit."""
        return not self.differing and self.failed == (self.again.report is None)

    @property
    def verdict(self) -> str:
        """One sentence."""
        if self.failed:
            return "it fails as it did in the run" if self.exact else "it failed in the run, and does NOT fail here"
        if self.exact:
            return "the same as in the run, bit for bit"
        if self.again.report is None:
            return "it did not fail in the run, and FAILS here"
        name, most = max(self.differing.items(), key=lambda item: item[1])
        more = f" and {len(self.differing) - 1} more" if len(self.differing) > 1 else ""
        there, here = self.devices
        why = f", for the run was on {there} and this is on {here}" if there != here else ""
        return f"NOT the same as in the run: {name} differs by up to {most:.2g}{more}{why}"

    @property
    def lines(self) -> list[str]:
        """For people: what stands below the numbers."""
        outcomes = [("", self.again)] + ([(f"with {self.change}, ", self.other)] if self.other is not None else [])
        lines = []
        for prefix, outcome in outcomes:
            if outcome.error:
                lines.append(f"{prefix}failed: {outcome.error}")
            if outcome.not_finite:
                lines.append(f"{prefix}not finite first: {outcome.not_finite}")
            if any(math.isfinite(sample.log_prob_change) for sample in outcome.moved_most):
                lines += [f"{prefix}largest change of the log-prob", *map(_line, outcome.moved_most)]
            else:
                lines.append(f"{prefix}no log-prob is finite afterwards, so that none changed most")
        return [*lines, "largest advantage", *map(_line, self.again.largest_advantages)]

    def rows(self) -> list[tuple[str, ...]]:
        """Names and numbers, of the update as it ran and beside it of the changed one."""
        columns = [_numbers(self.again, self.step)]
        if self.other is not None and self.other_step is not None:
            columns.append(_numbers(self.other, self.other_step))
        names = dict.fromkeys(name for column in columns for name in column)
        return [(name, *(column.get(name, "") for column in columns)) for name in names]

    def __str__(self) -> str:
        """One screen: the verdict, the numbers, and what moved most."""
        rows = self.rows()
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([f"iteration {self.iteration}: {self.verdict}", *table, *self.lines])

    def describe(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "iteration": self.iteration,
            "kept": list(self.kept),
            "devices": list(self.devices),
            "exact": self.exact,
            "failed_in_the_run": self.failed,
            "differing": dict(self.differing),
            "again": _plain(self.again, self.step),
            "set": self.change,
            "other": None if self.other is None else _plain(self.other, self.other_step),
        }


def replay(kept: Kept, entry: Entry, world: World, change: str | None) -> Replay:
    """Do an update again, and once more with a setting changed.

    Args:
        kept: all that are kept.
        entry: of these.
        world: of the run.
        change: `KEY=VALUE`, or None.

    Raises:
        UserError: the change can not be made, or what is kept does not fit.
    """
    other = None if change is None else changed(world.config, change, world.settable)
    with _threads(kept.run.get("threads")):
        return _replay(kept, entry, world, change, other)


def _replay(kept: Kept, entry: Entry, world: World, change: str | None, other: Any) -> Replay:
    learner = _made(world, entry, world.config)
    again = repeat(learner)
    differing = {} if entry.after is None else _differing(learner, entry.after, again.weights)
    iterations = tuple(e.iteration for e in kept.entries)
    devices = str(kept.run.get("device")), learner.task.optimizer.flat.device.type
    found = (entry.iteration, iterations, devices, entry.after is None, differing, again, _step(entry, again))
    if other is None:
        return Replay(*found)
    del learner  # two models need not live at a time
    outcome = repeat(_made(world, entry, other))
    return Replay(*found, change, outcome, _step(entry, outcome))


@contextmanager
def _threads(count: Any) -> Iterator[None]:
    """As many as the run had: how a sum is shared out decides its last bits."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count if isinstance(count, int) and 1 <= count <= (os.cpu_count() or 1) else before)
        yield
    finally:
        torch.set_num_threads(before)


def _made(world: World, entry: Entry, config: Any) -> Learner:
    try:
        return world.make(entry, config)
    except MALFORMED as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"the kept update does not fit the run's settings ({reason}); it was altered") from error


def _differing(learner: Learner, after: Tensor, weights: Tensor) -> dict[str, float]:
    if torch.equal(after.view(torch.uint8), weights.view(torch.uint8)):  # bits, for NaN is equal to nothing
        return {}
    parts = [(name, after[part], weights[part]) for name, part in learner.named_slices()]
    return {name: float((a - b).abs().max()) for name, a, b in parts if not torch.equal(a, b)}


def _step(entry: Entry, outcome: Outcome) -> float:
    return float(torch.linalg.vector_norm(outcome.weights - entry.before.weights))


def _numbers(outcome: Outcome, step: float) -> dict[str, str]:
    numbers = {"minibatches": str(outcome.begun)}
    if report := outcome.report:
        numbers |= {
            "gradient steps": str(report.steps),
            "stopped by target_kl": "yes" if report.stopped_by_kl else "no",
        }
        numbers |= {name: f"{value:.6g}" for name, value in report.values.items()}
    else:
        numbers["failed"] = "yes"
    return numbers | {"change of the weights (L2)": f"{step:.6g}"}


def _line(sample: Sample) -> str:
    where = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in sample.where.items()
    )
    return f"  log-prob by {sample.log_prob_change:+.4g} nats, advantage {sample.advantage:+.4g}: {where}"


def _plain(outcome: Outcome, step: float | None) -> dict[str, Any]:
    return {
        "minibatches": outcome.begun,
        "report": None if outcome.report is None else asdict(outcome.report),
        "error": outcome.error,
        "not_finite": outcome.not_finite,
        "weights_moved": step,
        "moved_most": [asdict(sample) for sample in outcome.moved_most],
        "largest_advantages": [asdict(sample) for sample in outcome.largest_advantages],
    }
