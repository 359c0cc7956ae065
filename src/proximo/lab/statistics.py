"""From one number for each seed to a verdict: a bootstrap interval, and three words."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Word = Literal["supported", "not supported", "undecided"]
RESAMPLES = 10_000


@dataclass(frozen=True)
class Verdict:
    """What the data say of one claim."""

    word: Word
    effect: float
    """Mean over the seeds."""
    low: float
    """Of the interval of the mean that covers 95 %."""
    high: float
    seeds: int

    def __str__(self) -> str:
        """As a page shows it."""
        interval = f"{self.effect:.3g} (95 % interval {self.low:.3g} to {self.high:.3g}, {self.seeds} seeds)"
        return f"{self.word}: {interval}"


def judge(effects: Sequence[float], least: float) -> Verdict:
    """A verdict on the claim that an effect is larger than `least`.

    The interval is the percentile bootstrap of the mean over seeds (Efron & Tibshirani 1993, section 13.3), with draws
    that are always the same. Above `least` altogether it supports the claim, below altogether it does not; an interval
    that holds `least` decides nothing.

    Args:
        effects: one for each seed, of which there are at least 2.
        least: the smallest effect that would matter.

    Raises:
        ValueError: fewer than two effects, or one that is not finite.
    """
    values = np.asarray(effects, np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"a verdict needs two finite effects or more, not {list(effects)}")
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(1), [0.025, 0.975])
    word: Word = "supported" if low > least else "not supported" if high <= least else "undecided"
    return Verdict(word, float(values.mean()), float(low), float(high), len(values))
