"""Where the probability ratios of an update lie, in few numbers: counts in bins that are relative to the clip range."""

from collections.abc import Sequence

import numpy as np

UNCLIPPED = 0.2
"""The range that stands for one where an algorithm has no clip."""
WIDTH, REACH = 0.2, 2.0
EDGES = tuple(round(-REACH + WIDTH * i, 10) for i in range(int(2 * REACH / WIDTH) + 1))
"""Inner edges in clip ranges: -1 is the ratio 1 - clip, 1 is 1 + clip; log-ratios in proportion between and beyond."""
_EDGES = np.array(EDGES)  # a conversion less, in every iteration
BINS = len(EDGES) + 1
"""The first bin is open below, the last above."""


def ratio_counts(log_ratio: np.ndarray, clip: float | None) -> str:
    """How many log-ratios lie in each bin, as `metrics.jsonl` holds it: `BINS` numbers, separated by spaces.

    Args:
        log_ratio: log(new policy / old policy) of samples, any shape; NaN is left out.
        clip: half-width of the clip range, in (0, 1); `UNCLIPPED` if None, or where it is not.
    """
    width = clip if clip is not None and 0 < clip < 1 else UNCLIPPED
    x = log_ratio.reshape(-1)
    scaled = np.where(x < 0, x / -np.log1p(-width), x / np.log1p(width))
    found = np.searchsorted(_EDGES, scaled[~np.isnan(scaled)], side="right")
    return " ".join(map(str, np.bincount(found, minlength=BINS).tolist()))


def read_counts(recorded: object) -> Sequence[int] | None:
    """The counts again; None where they are missing, or no such counts."""
    if not isinstance(recorded, str):
        return None
    try:
        counts = [int(word) for word in recorded.split()]
    except ValueError:
        return None
    return counts if len(counts) == BINS and min(counts) >= 0 < sum(counts) else None
