"""A run's folder as a view sees it: of any kind, in any state, also while it is being written to."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from proximo.errors import UserError
from proximo.runs.config.toml import KIND, flat, read_toml
from proximo.runs.health.history import number
from proximo.runs.storage.files import parse_json
from proximo.runs.storage.folder import find_run
from proximo.runs.storage.metrics import read_metrics
from proximo.views.visible import visible

State = Literal["running", "finished", "failed", "stopped", "empty"]
RESULTS = ("return", "score", "validation/accuracy", "accuracy", "validation_loss", "loss")
"""Metrics that say how well a run does; the first that a run has is its own."""
STAGES = ("sft", "reward", "judge", "ppo")
SEED = "seed"
_SEED_FOLDER = re.compile(r"seed-(-?\d+)")
WHERE = frozenset({"run", "date", "keep", "checkpoint_every", "replay_mb", "record_mb", "threads"})
"""Settings that say where a run lies and what it keeps, not what it learns."""


@dataclass(frozen=True)
class Seen:
    """One run, read."""

    folder: Path
    name: str
    """Short, and different for each run of one view."""
    settings: Mapping[str, Any]
    """By dotted key; paths below the run's parent are relative to it, as `sft` of the PPO run beside it."""
    rows: Sequence[Mapping[str, Any]]
    """One per iteration, steps rising."""
    state: State
    error: str = ""
    """What ended it, where it failed."""
    results: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """`control`, `language`, or a stage of the latter."""
        return str(self.settings.get(KIND, ""))

    @property
    def unit(self) -> str:
        """What its steps count."""
        return {"control": "environment steps", "language": "responses"}.get(self.kind, "gradient steps")

    @property
    def task(self) -> str:
        """What its result is of: only runs with one task have results on one scale."""
        if self.kind == "control":
            return str(self.settings.get("environment", ""))
        rows = self.settings.get("prompts") or self.settings.get("data") or ""
        return f"{self.kind}: {Path(str(rows)).name}"

    @property
    def result(self) -> str | None:
        """Name of the metric that says how well it does."""
        return next((name for name in RESULTS if any(number(row.get(name)) is not None for row in self.rows)), None)

    @property
    def treatment(self) -> tuple[tuple[str, str], ...]:
        """Its settings but for the seed and where it lies: what all seeds of one experiment have in common."""
        return tuple(sorted((k, str(v)) for k, v in self.settings.items() if k != SEED and k not in WHERE))

    def column(self, name: str) -> list[float | None]:
        """One value for each row; None where it was not measured, or is not finite."""
        values = [row.get(name) for row in self.rows]
        # Most are finite floats, which need no closer look: this is what a page of long runs spends its time on.
        return [x if type(x) is float and x - x == 0 else number(x) for x in values]

    def course(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of a metric where it was measured, each `[n]`."""
        known = [(row["step"], y) for row, y in zip(self.rows, self.column(name), strict=True) if y is not None]
        return np.array([x for x, _ in known], np.float64), np.array([y for _, y in known], np.float64)


def read_runs(folders: Iterable[str | os.PathLike[str]]) -> list[Seen]:
    """Runs as they are now, each once.

    Args:
        folders: of runs, of all stages of a language run (its PPO run is taken), or of several seeds (see `seeds_in`).

    Raises:
        UserError: one holds no run, or a file of one is damaged; or there is none.
    """
    each = (run for folder in folders for run in seeds_in(folder))
    found = list(dict.fromkeys(find_run(folder).resolve() for folder in each))
    if not found:
        raise UserError("no run was given: give the folder of one or more")
    return [read_run(folder, name) for folder, name in zip(found, short_names(found), strict=True)]


def seeds_in(folder: str | os.PathLike[str]) -> list[Path]:
    """The runs of `proximo train --seeds`, where the folder of these was given; else the folder alone."""
    whole = Path(folder)
    if (whole / "config.toml").is_file():
        return [whole]
    runs = [place.parent for place in whole.glob("seed-*/config.toml")]
    seeds = {run: int(name[1]) for run in runs if (name := _SEED_FOLDER.fullmatch(run.name))}
    return sorted(seeds, key=seeds.__getitem__) or [whole]


def read_run(folder: Path, name: str = "", rows: Sequence[Mapping[str, Any]] | None = None) -> Seen:
    """One run as it is now.

    Args:
        folder: of the run itself.
        name: to show; its folder's if empty.
        rows: of its metrics, where somebody has read them already.

    Raises:
        UserError: its configuration or its metrics are damaged.
    """
    settings = _beside(flat(read_toml(folder / "config.toml")), folder)
    if rows is None:
        file = folder / "metrics.jsonl"
        rows = read_metrics(file) if file.is_file() else []
    error = str(rows[-1]["error"]) if rows and "error" in rows[-1] else ""
    iterations = rising([row for row in rows if "error" not in row])
    results = _results(folder / "results.json")
    state = _state(is_running(folder), bool(results), error, bool(iterations))
    return Seen(folder, name or visible(folder.name), settings, iterations, state, error, results)


def _state(running: bool, finished: bool, error: str, any_row: bool) -> State:
    if running:
        return "running"
    return "finished" if finished else "failed" if error else "stopped" if any_row else "empty"


def _results(file: Path) -> dict[str, Any]:
    try:
        read = parse_json(file.read_bytes())
    except (OSError, ValueError):  # not there, or just being replaced
        return {}
    return read if isinstance(read, dict) else {}


def rising(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Rows whose steps rise: where steps were done again, what was written last counts."""
    kept: list[Mapping[str, Any]] = []
    for row in reversed(rows):
        if not kept or row["step"] < kept[-1]["step"]:
            kept.append(row)
    return kept[::-1]


def _beside(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Settings with paths below the run's parent relative to it: else each seed of a language run differs by its own.

    The parent is where the run lies, or where it was trained and moved from.
    """
    trained = Path(str(settings.get("run") or folder))
    parents = [f"{place.parent}{os.sep}" for place in dict.fromkeys([folder, trained])]

    def shortened(value: Any) -> Any:
        if isinstance(value, list):
            return [shortened(x) for x in value]
        inside = [x for x in parents if isinstance(value, str) and value.startswith(x)]
        return value.removeprefix(inside[0]) if inside else value

    found = {}
    for key, value in settings.items():
        table, dot, name = key.partition(".")
        found[f"{table}{dot}{shortened(name)}"] = value if key in WHERE else shortened(value)
    return found


def short_names(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as tell it from the others; two of a stage, whose own name says little.

    What can not be printed is written as an escape: it could turn the sentence around that names the run.
    """
    parts = {folder: tuple(map(visible, folder.parts)) for folder in folders}
    length = {folder: 1 + (folder.name in STAGES) for folder in folders}
    while True:
        names = {folder: "/".join(parts[folder][-length[folder] :]) for folder in folders}
        count = Counter(names.values())
        alike = [x for x in folders if count[names[x]] > 1 and length[x] < len(parts[x])]
        if not alike:
            return [names[folder] for folder in folders]
        beside = {folder.parent: length[folder] for folder in alike}  # or of four seeds one would be named otherwise
        for folder in folders:
            length[folder] += beside.get(folder.parent) == length[folder]


def is_running(folder: Path) -> bool:
    """Whether a process holds the run's lock. It is not tried: a run that starts at that moment would be refused."""
    if sys.platform == "win32":
        return False  # to ask after a process there is to end it
    file = folder / "lock"
    try:
        owner, inode = int(file.read_text()), file.stat().st_ino
        os.kill(owner, 0)
    except PermissionError:
        pass  # it lives, as somebody else's
    except (OSError, ValueError, OverflowError):
        return False
    try:
        locks = Path("/proc/locks").read_text()
    except OSError:
        return True
    return any(f" {owner} " in line and f":{inode} " in line for line in locks.splitlines())


def differing(runs: Sequence[Seen]) -> list[str]:
    """Keys of settings that are not the same in all runs, but for where they lie."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    return [k for k in keys if k not in WHERE and len({str(run.settings.get(k)) for run in runs}) > 1]


def groups_of_seeds(runs: Sequence[Seen]) -> list[list[int]]:
    """Numbers of the runs, those together that differ in nothing but their seed."""
    groups: dict[Any, list[int]] = {}
    for i, run in enumerate(runs):
        groups.setdefault(run.treatment, []).append(i)
    return list(groups.values())
