"""A few sentences on what went well."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.record import Record
from proximo.runs.health.history import number


def went_well(run: Record) -> list[str]:
    """Sentences about what a run reached and what was sound in it."""
    return [*_reached(run), *_sound(run)]


def colours(run: Record) -> dict[str, int]:
    """How many iterations were green, amber and red."""
    counts = Counter(verdict.health for verdict in run.verdicts)
    return {colour: counts[colour] for colour in ("green", "amber", "red")}


def _reached(run: Record) -> Iterator[str]:
    name = run.kind.result
    values = run.measured(name)
    if len(values) and values[-1] > values[0]:
        yield f"{name} {values[0]:,.4g} -> {values[-1]:,.4g} (best {values.max():,.4g})"
    rise, error = number(run.evaluation.get("rise_sd")), number(run.evaluation.get("rise_se")) or 0.0
    if rise is not None and rise > 2 * error:
        yield f"a held-out judge prefers it by {rise:.2f} standard deviations (standard error {error:.2f})"


def _sound(run: Record) -> Iterator[str]:
    explained, kl = run.measured("explained_variance"), run.measured("approx_kl")
    if len(explained) and (late := float(np.median(explained[-max(1, len(explained) // 4) :]))) > 0.5:
        yield f"the critic explains {late:.0%} of the returns' variance"
    if len(kl) and 1e-4 < np.median(kl) < 0.05:
        yield f"updates of a sound size (KL {np.median(kl):.2g} nats)"
    deviation = run.measured("ratio_deviation")
    if len(deviation):
        yield f"the policy that learnt was the one that acted (ratio 1 within {deviation.max():.1g})"
