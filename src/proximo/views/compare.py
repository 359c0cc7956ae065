"""Are these settings better? Two groups of runs, seed by seed, with what chance explains."""

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from proximo.errors import UserError, nearest
from proximo.views.metrics_texts import TEXTS
from proximo.views.numbers import short
from proximo.views.seeds import Estimate, difference, interquartile_mean, probability_of_improvement
from proximo.views.seen import SEED, Seen, differing, read_runs, seeds_in

FEWEST = 4
"""Seeds on each side below which nothing is said. Of equal sides of 3, more than one pair in five would be called
different (`benchmarks/compare_chance.py`)."""
LAST = 0.1
"""Share of the steps whose mean is the final score."""


@dataclass(frozen=True)
class Score:
    """One way to score a run, over both sides."""

    name: str
    meaning: str
    a: tuple[float, ...]
    """One for each run of A."""
    b: tuple[float, ...]
    iqm_a: Estimate
    iqm_b: Estimate
    difference: Estimate
    """A's interquartile mean less B's."""
    improvement: Estimate
    """Probability that a run of A does better than one of B; is higher, where neither is known to be better."""


@dataclass(frozen=True)
class Comparison:
    """Two groups of runs on the steps that all of them have."""

    metric: str
    better: Literal["higher", "lower"] | None
    """Which values are better; None where neither is, or nobody has said."""
    first_step: int
    last_step: int
    runs_a: tuple[str, ...]
    runs_b: tuple[str, ...]
    scores: tuple[Score, ...]
    """`final` and `area`."""
    differs: tuple[tuple[str, str, str], ...]
    """Settings in which A and B differ: key, A's value, B's."""
    notes: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Which is better by the final score, or why that can not be told."""
        final = self.scores[0]
        sides = f"{len(final.a)} and {len(final.b)}"
        if min(len(final.a), len(final.b)) < FEWEST:
            return f"too few seeds to tell ({sides}): train at least {FEWEST} of each, better 5 to 10"
        gain = final.difference
        said = f"{short(gain.value)} (95 % interval {short(gain.low)} to {short(gain.high)})"
        if gain.low <= 0 <= gain.high:
            return f"too few seeds to tell ({sides}): the final scores differ by {said}, which may be nothing"
        which, how = (
            ("A" if (gain.value > 0) != (self.better == "lower") else "B"),
            "better" if self.better else "higher",
        )
        return f"{which} is {how}: the final scores, A less B, differ by {said}"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"verdict": self.verdict}

    def __str__(self) -> str:
        """One screen."""
        text = TEXTS.get(self.metric)
        unit = f" ({text.unit})" if text else ""
        lines = [
            f"{self.metric}{unit}, steps {short(self.first_step)} to {short(self.last_step)}, which all runs have",
            *(f"{side}  {', '.join(runs)}" for side, runs in (("A", self.runs_a), ("B", self.runs_b))),
        ]
        for score in self.scores:
            lines += ["", f"{score.name}: {score.meaning}"]
            for side, values, iqm in (("A", score.a, score.iqm_a), ("B", score.b, score.iqm_b)):
                said = _interval(iqm, (values,))
                lines.append(f"  {side}  {said}   each run: {', '.join(map(short, values))}")
            sides, does = (score.a, score.b), "does better" if self.better else "is higher"
            lines.append(f"  A less B  {_interval(score.difference, sides)}")
            lines.append(f"  A {does} than B with probability {_interval(score.improvement, sides)}")
        lines += ["", "settings that differ" if self.differs else "no setting differs but the seed"]
        lines += [f"  {key}  A {a}  B {b}" for key, a, b in self.differs]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join([*lines, "", self.verdict])


def _interval(estimate: Estimate, sides: Sequence[Sequence[float]]) -> str:
    if any(len(values) < 2 for values in sides):
        return f"{short(estimate.value)} (one run, so no interval)"
    return f"{short(estimate.value)} (95 %: {short(estimate.low)} to {short(estimate.high)})"


Folders = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def compare(a: Folders, b: Folders, *, metric: str | None = None) -> Comparison:
    """Compare two settings by their runs: interquartile means, and the probability that A does better than B.

    Two scores of each run, both of the metric's course as it was recorded, on the steps that all runs have: `final`,
    the mean over the last tenth of the steps, and `area`, the area under the curve divided by its width. Statistics are
    those of Agarwal et al. 2021 (arXiv 2108.13264); they need the extra `lab`.

    Args:
        a: folders of runs that differ in their seed alone, or that of all seeds of `proximo train --seeds`.
        b: likewise.
        metric: name in `metrics.jsonl`; None takes what says how well such runs do (`return`, `score`).

    Returns:
        A `Comparison`; `str()` is the screen, `plain()` the content for JSON.

    Raises:
        UserError: the runs can not be compared, or rliable is not installed.
    """
    counts = [len(side) for side in (_folders(a), _folders(b))]
    folders = [*_folders(a), *_folders(b)]
    runs = read_runs(folders)
    if len(runs) < sum(counts):
        there = [Path(folder).resolve() for folder in folders]
        twice = next((folder for folder, place in zip(folders, there, strict=True) if there.count(place) > 1), "a run")
        raise UserError(f"{twice} was given twice: each run may stand on one side, once")
    sides = runs[: counts[0]], runs[counts[0] :]
    name = _check(sides, metric)
    curves = [[_course(run, name) for run in side] for side in sides]
    every = [points for side in curves for points in side]
    first, last = max(x[0] for x, _ in every), min(x[-1] for x, _ in every)
    if first >= last:
        raise UserError(f"the runs have no steps in common ({first:,.0f} to {last:,.0f}): let them all train further")
    better = TEXTS[name].better if name in TEXTS else None
    ranges = (
        ("final", f"mean over the last tenth of the steps, from {short(last - LAST * (last - first))} on", LAST),
        ("area", "area under the curve, divided by its width", 1.0),
    )
    scores = tuple(
        _score(title, meaning, curves, last - share * (last - first), last, better == "lower")
        for title, meaning, share in ranges
    )
    return Comparison(
        name,
        better,
        int(first),
        int(last),
        runs_a=tuple(run.name for run in sides[0]),
        runs_b=tuple(run.name for run in sides[1]),
        scores=scores,
        differs=tuple(
            (key, str(sides[0][0].settings.get(key, "-")), str(sides[1][0].settings.get(key, "-")))
            for key in differing(runs)
            if key != SEED
        ),
        notes=tuple(
            f"{run.name} is {run.state}, at step {short(run.rows[-1]['step'])}"
            for run in runs
            if run.state != "finished"
        ),
    )


def _folders(side: Folders) -> list[Path]:
    given = [side] if isinstance(side, str | os.PathLike) else list(side)
    folders = [run for folder in given for run in seeds_in(folder)]
    if not folders:
        raise UserError("one side has no run: give RUN [RUN ...] -- RUN [RUN ...]")
    return folders


def _check(sides: Sequence[Sequence[Seen]], metric: str | None) -> str:
    """The metric to compare by.

    Raises:
        UserError: the runs of a side are of several settings, or of one seed; or the sides are of different tasks.
    """
    for side, runs in zip("AB", sides, strict=True):
        if len(settings := [key for key in differing(runs) if key != SEED]):
            raise UserError(
                f"the runs of {side} differ in {', '.join(settings[:3])}: give runs that differ in their seed alone"
            )
        seed, times = Counter(str(run.settings.get(SEED)) for run in runs).most_common(1)[0]
        if times > 1:
            raise UserError(f"seed {seed} stands {times} times in {side}, and tells nothing new then: give other seeds")
    tasks = {run.task for runs in sides for run in runs}
    if len(tasks) > 1:
        raise UserError(f"{' and '.join(sorted(tasks))} can not be compared: give runs of one task")
    name = metric or next((run.result for runs in sides for run in runs if run.result), None)
    if name is None:
        raise UserError("these runs have no return and no score yet: let them train further, or give --metric NAME")
    return name


def _course(run: Seen, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values `[n]` of a metric where it was measured, n >= 2."""
    if not run.rows:
        raise UserError(f"{run.folder} has no iteration yet: let it train further")
    x, y = run.course(name)
    known = {each for row in run.rows for each in row}
    if name not in known:
        likely = nearest(name, known)
        raise UserError(
            f"{run.folder} has no metric {name!r}: {f'did you mean {likely}?' if likely else 'see its metrics.jsonl'}"
        )
    if len(x) < 2:
        raise UserError(
            f"{run.folder} has {len(x)} value{'s' * (not len(x))} of {name}, and 2 are needed: let it train further"
        )
    return x, y


def _score(
    name: str,
    meaning: str,
    curves: Sequence[Sequence[tuple[np.ndarray, np.ndarray]]],
    low: float,
    high: float,
    lower: bool,
) -> Score:
    a, b = (tuple(mean_between(x, y, low, high) for x, y in side) for side in curves)
    better = probability_of_improvement(b, a) if lower else probability_of_improvement(a, b)
    return Score(name, meaning, a, b, interquartile_mean(a), interquartile_mean(b), difference(a, b), better)


def mean_between(x: np.ndarray, y: np.ndarray, low: float, high: float) -> float:
    """Mean of the piecewise linear curve through `(x, y)` over `[low, high]`, low < high."""
    inside = x[(x > low) & (x < high)]
    grid = np.concatenate([[low], inside, [high]])
    return float(np.trapezoid(np.interp(grid, x, y), grid) / (high - low))
