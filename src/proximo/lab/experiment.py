"""What an experiment says of itself, and how it is run: resumable, one row for each arm and seed."""

import json
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from proximo.errors import MALFORMED, UserError
from proximo.lab.statistics import Verdict, judge

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Row = Mapping[str, Any]
"""One measurement: `arm`, `seed`, and numbers by name."""


@dataclass(frozen=True)
class Claim:
    """Something that the data may support."""

    says: str
    """One sentence, of an effect that is larger than `least`."""
    effect: Callable[[Mapping[str, Row]], float]
    """From the rows of one seed, by arm."""
    least: float
    """The smallest effect that would matter, in the effect's own units."""
    control: bool = False
    """True of an effect that can not be there: an experiment that finds it measures something else."""


@dataclass(frozen=True)
class Judged:
    """A claim and its verdict."""

    claim: Claim
    verdict: Verdict

    @property
    def sound(self) -> bool:
        """False of a control that came out as supported."""
        return not (self.claim.control and self.verdict.word == "supported")


@dataclass(frozen=True)
class Text:
    """What a person reads of an experiment; Markdown."""

    question: str
    meaning: str
    """What it means, for who has not read the papers: three paragraphs, with the formula."""
    expected: str
    """The hypothesis."""
    protocol: str
    """What is run, on what, and what is measured."""

    @classmethod
    def of(cls, name: str) -> "Text":
        """The text of an experiment."""
        whole = (resources.files("proximo.lab") / "texts" / f"{name}.md").read_text("utf-8")
        head, expected, protocol = (part.strip() for part in re.split(r"^## (?:Expected|Protocol)$", whole, flags=re.M))
        question, meaning = head.removeprefix("# ").split("\n", 1)
        return cls(question, meaning.strip(), " ".join(expected.split()), " ".join(protocol.split()))


class Experiment(ABC):
    """One question, asked of this code.

    A subclass is quick (for tests and a first look) or full, by `self.quick`.
    """

    name: ClassVar[str]
    """Of the experiment, and of its text in `proximo/lab/texts`."""
    seeds: ClassVar[int] = 5
    quick_seeds: ClassVar[int] = 2

    def __init__(self, *, quick: bool = False) -> None:
        self.quick = quick
        self.folder = Path("runs/lab") / self.name
        """For runs that are kept; `run` says where."""
        self._runs: set[Path] = set()

    def run_folder(self, name: str) -> Path:
        """Folder of a run that the measurement under way makes; its weights go once the measurement is written."""
        folder = self.folder / "runs" / f"{name}{'-quick' if self.quick else ''}"
        self._runs.add(folder)
        return folder

    def drop_weights(self) -> None:
        """Delete the weights of the runs of what was measured; a language run has more than 1 GB of them."""
        for folder in self._runs:
            for file in folder.rglob("*.safetensors"):
                file.unlink()
        self._runs.clear()

    @abstractmethod
    def arms(self) -> Sequence[str]:
        """What is compared."""

    @abstractmethod
    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """Numbers of one arm, JSON."""

    @abstractmethod
    def claims(self) -> Sequence[Claim]:
        """What is judged; one of them is a control."""

    @abstractmethod
    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """The one figure that shows it."""

    def shown(self, judged: Sequence[Judged]) -> str:
        """The verdicts as its page shows them; Markdown."""
        return "\n".join(
            f"* {'Control, which must not be supported: ' if each.claim.control else ''}{each.claim.says}\n"
            f"  **{each.verdict}**; what would matter is {each.claim.least:g}."
            for each in judged
        )

    def judged(self, rows: Sequence[Row]) -> list[Judged]:
        """Every claim with its verdict."""
        by_seed: dict[int, dict[str, Row]] = {}
        for row in rows:
            by_seed.setdefault(int(row["seed"]), {})[str(row["arm"])] = row
        whole = [arms for _, arms in sorted(by_seed.items()) if set(self.arms()) <= set(arms)]
        return [Judged(claim, judge([claim.effect(arms) for arms in whole], claim.least)) for claim in self.claims()]


def run(experiment: Experiment, folder: Path, seeds: int | None, told: Callable[[str], None]) -> list[Row]:
    """Measure what is not measured yet, and return all of it.

    Args:
        experiment: what to run.
        folder: keeps the rows, in a file for the quick form and one for the full form.
        seeds: how many; the experiment's own number if None.
        told: takes a sentence about each measurement.

    Raises:
        UserError: the rows that are there can not be read, or there are too few seeds.
    """
    count = seeds if seeds is not None else experiment.quick_seeds if experiment.quick else experiment.seeds
    if count < 2:
        raise UserError(f"seeds = {count} must be 2 or more: a verdict needs a spread")
    experiment.folder = folder
    file = folder / ("quick.jsonl" if experiment.quick else "full.jsonl")
    folder.mkdir(parents=True, exist_ok=True)
    there = {(row["arm"], row["seed"]): row for row in _read(file)}
    jobs = [(arm, seed) for seed in range(count) for arm in experiment.arms()]
    for arm, seed in jobs:
        if (arm, seed) in there:
            continue
        started, worked = time.perf_counter(), time.process_time()
        row = {"arm": arm, "seed": seed, **experiment.measure(arm, seed)}
        row |= {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - worked}
        with file.open("a") as out:
            out.write(json.dumps(row) + "\n")
        experiment.drop_weights()
        there[arm, seed] = row
        told(f"{experiment.name}: {len(there)} of {len(jobs)}, {arm}, seed {seed}, {row['seconds']:.1f} s")
    return [there[job] for job in jobs]


def _read(file: Path) -> list[Row]:
    if not file.exists():
        return []
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        return [dict(row) for row in rows if row["arm"] is not None and row["seed"] is not None]
    except MALFORMED as error:
        raise UserError(f"{file} does not hold an experiment's rows ({error}): delete it to measure anew") from error
