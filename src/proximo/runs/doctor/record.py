"""A run as it lies on disk: its rows as columns, its settings by name."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, wraps
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from proximo.core.schedules import Schedule
from proximo.errors import UserError
from proximo.runs.config.toml import KIND, read_toml
from proximo.runs.config.types import UNSET
from proximo.runs.doctor.diagnosis import Diagnosis
from proximo.runs.health import TruthMeter, Verdict
from proximo.runs.health.history import number
from proximo.runs.storage.files import parse_json
from proximo.runs.storage.metrics import read_metrics

EVALUATION = "evaluation.json"
"""File of an independent judge's measurement, beside the `config.toml` of a language run."""


Answer = TypeVar("Answer")


class Probed(Protocol):
    """What a run's own steps have answered."""

    @property
    def something_to_gain(self) -> bool:
        """Whether some actions are followed by better returns than others."""


@dataclass(frozen=True)
class Kind:
    """What a world knows of its runs."""

    result: str
    """Metric that says how well a policy does."""
    noisy: bool
    """Whether it is of one batch, so that its course is to be smoothed."""
    value_coefficient: float
    """A usual weight of the value loss."""
    reward_scaling: str | None
    """Setting that scales rewards, where there is one."""
    rules: tuple[Callable[["Record"], Iterator[Diagnosis]], ...]
    """Asked beside those for all runs."""
    probe: Callable[["Record"], Probed | None] | None = None
    """Puts questions to the steps that a run keeps; None where it keeps none. It takes seconds, so it is asked only of
    a run that has something to explain."""


@dataclass(frozen=True)
class Record:
    """Files of a run, read."""

    config: Mapping[str, Any]
    """As `config.toml` has it."""
    kind: Kind
    rows: tuple[Mapping[str, Any], ...]
    """One per iteration."""
    error: Mapping[str, Any] | None = None
    """The row of the error that ended it."""
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    folder: Path | None = None
    """Where it lies; None for one made by hand."""
    answers: dict[Callable[["Record"], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """To questions that are asked `once`."""

    @cached_property
    def probed(self) -> Probed | None:
        """What its own steps say; None where they are not kept."""
        return self.kind.probe(self) if self.kind.probe else None

    @cached_property
    def results(self) -> Mapping[str, Any]:
        """Of the evaluation at its end; empty before, and where it can not be read."""
        try:
            read = parse_json((self.folder / "results.json").read_bytes()) if self.folder else {}
        except (OSError, ValueError):
            return {}
        return read if isinstance(read, dict) else {}

    @cached_property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The truth meter's, one for each iteration."""
        meter = TruthMeter(self.amount("environments"), self.amount("steps"))
        return tuple(meter.judge(row) for row in self.rows)

    @property
    def of_self_play(self) -> bool:
        """Whether its returns are of games of the policy against itself, which say nothing of how good it is."""
        return any("log/won" in row for row in self.rows)

    def column(self, name: str) -> np.ndarray:
        """`[n]` float64, one for each iteration, NaN where it was not measured."""
        return np.array([np.nan if (x := number(row.get(name))) is None else x for row in self.rows], np.float64)

    def measured(self, name: str) -> np.ndarray:
        """The column without what was not measured, `[m]`, m <= n."""
        column = self.column(name)
        return column[np.isfinite(column)]

    def setting(self, name: str) -> Any:
        """A setting by its dotted name; None where it is unset."""
        found = self._written(name)
        return None if found == UNSET else found

    def has(self, name: str) -> bool:
        """Whether there is such a setting, set or not: an algorithm lacks those that mean nothing to it."""
        return self._written(name) is not None

    def _written(self, name: str) -> Any:
        table: Any = self.config
        for part in name.split("."):
            table = table.get(part) if isinstance(table, Mapping) else None
        return table

    def amount(self, name: str) -> float:
        """A setting as a number; 0 where it is unset or none."""
        return number(self.setting(name)) or 0.0

    def schedule(self, name: str) -> Schedule | None:
        """A setting that may change over the run; None where it is unset, or not what a run could have written."""
        value = self.setting(name)
        try:
            return Schedule.parse(value) if isinstance(value, int | float | str) else None
        except ValueError:
            return None

    @property
    def steps(self) -> int:
        """Environment steps or responses so far."""
        return int(number(self.rows[-1].get("step")) or 0) if self.rows else 0


def once(question: Callable[[Record], Answer]) -> Callable[[Record], Answer]:
    """A question that goes through all rows of a run: asked by several rules, it is answered once."""

    @wraps(question)
    def asked(run: Record) -> Answer:
        if question not in run.answers:
            run.answers[question] = question(run)
        answer: Answer = run.answers[question]
        return answer

    return asked


def read_record(folder: Path, kinds: Mapping[str, Kind]) -> Record:
    """Read a run's folder.

    Raises:
        UserError: it holds no run, or a file is damaged, or there is no iteration yet.
    """
    if not (folder / "config.toml").is_file():
        raise UserError(f"{folder} holds no run (no config.toml): check the path")
    config = read_toml(folder / "config.toml")
    kind = str(config.get(KIND, ""))
    if kind not in kinds or not isinstance(config.get("update"), dict):
        said = f"says {KIND} = {kind!r}" if kind else f"says no {KIND}"
        raise UserError(f"{folder} is no PPO run (its config.toml {said}): give one of `train` or `rlhf ppo`")
    if not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder} has no metrics.jsonl, so there is nothing to go by: run it first")
    rows = read_metrics(folder / "metrics.jsonl")
    iterations = tuple(row for row in rows if "error" not in row)
    error = rows[-1] if rows and "error" in rows[-1] else None
    if not rows:
        raise UserError(f"{folder} has no iteration yet: wait for the first")
    return Record(config, kinds[kind], iterations, error, _evaluation(folder), folder)


def _evaluation(folder: Path) -> dict[str, Any]:
    file = folder / EVALUATION
    if not file.exists():
        return {}
    try:
        return dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} can not be read ({error}); delete it") from error


def running_median(values: np.ndarray, size: int = 5) -> np.ndarray:
    """`[n]` -> `[n]`: of each value and its neighbours, the ends repeated."""
    padded = np.pad(values, size // 2, mode="edge")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, size), axis=1))


def start_and_end(values: np.ndarray) -> tuple[float, float]:
    """Medians of the first and the last tenth (one value at least); NaN where nothing was measured."""
    if not len(values):
        return np.nan, np.nan
    share = max(1, len(values) // 10)
    return float(np.median(values[:share])), float(np.median(values[-share:]))
