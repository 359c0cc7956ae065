"""What several ranks have measured in one iteration, as one: the same numbers on all of them."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proximo.scale.mesh import Mesh

Seen = Sequence[tuple[float, Any, Mapping[str, Any]]]
"""Of one metric, for each rank that has it: the weight, the value, and all of the rank's metrics."""


@dataclass(frozen=True)
class Rules:
    """How metrics become one, by name; all others are means over the samples of all ranks."""

    sums: Collection[str] = ()
    maxima: Collection[str] = ()
    squares: Collection[str] = ()
    """Root mean squares; a deviation among them is that within ranks."""
    deviations: Mapping[str, str] = field(default_factory=dict)
    """Standard deviations, and the means that they are taken around."""
    errors: Collection[str] = ()
    """Standard errors of means."""
    histograms: Collection[str] = ()
    """Counts, as words of a text."""


def merged(
    metrics: Mapping[str, Any], weight: float, mesh: Mesh, rules: Rules, *, of_squares: float | None = None
) -> dict[str, Any]:
    """Metrics of all ranks as one.

    Args:
        metrics: of this rank by name: numbers, texts (that of the first rank is taken), or None. One that a rank has
            nothing to say of may be missing there, or None.
        weight: samples that this rank's means are taken over.
        mesh: of the run.
        rules: for what is no mean.
        of_squares: samples that root mean squares are taken over, where these are others.
    """
    if mesh.alone:
        return dict(metrics)
    mine = {name: x if isinstance(x, int | float | str) else None for name, x in metrics.items()}
    rows = mesh.gather_json([weight, weight if of_squares is None else of_squares, mine])
    told = {}
    for name in dict.fromkeys(name for *_, row in rows for name in row):
        seen = [(s if name in rules.squares else w, row[name], row) for w, s, row in rows if row.get(name) is not None]
        told[name] = _one(name, seen, rules) if seen else None
    return told


def _one(name: str, seen: Seen, rules: Rules) -> Any:
    values = [x for _, x, _ in seen]
    if name in rules.sums:
        return sum(values)
    if name in rules.histograms:
        return " ".join(str(sum(counts)) for counts in zip(*(map(int, x.split()) for x in values), strict=True))
    if name in rules.maxima:
        return max(values, key=lambda x: (math.isnan(x), x))
    if isinstance(values[0], str):
        return values[0]
    if name in rules.errors:  # of a mean of means
        return math.sqrt(sum((w * x) ** 2 for w, x, _ in seen)) / sum(w for w, _, _ in seen)
    if name in rules.deviations:
        centres = [row[rules.deviations[name]] for *_, row in seen]
        middle = _mean(seen, centres)
        return math.sqrt(_mean(seen, [x * x + (c - middle) ** 2 for x, c in zip(values, centres, strict=True)]))
    if all(x == values[0] for x in values):
        return values[0]  # known to all already, perhaps as a whole number
    return math.sqrt(_mean(seen, [x * x for x in values])) if name in rules.squares else _mean(seen, values)


def _mean(seen: Seen, values: Sequence[float]) -> float:
    return sum(w * x for (w, *_), x in zip(seen, values, strict=True)) / sum(w for w, *_ in seen)
