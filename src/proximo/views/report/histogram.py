"""The ratio's histogram over a run, thinned to what a screen shows."""

from typing import Any

from proximo.core.ratio_bins import BINS, EDGES, read_counts
from proximo.views.seen import Seen


def ratio_map(run: Seen, most: int) -> dict[str, Any] | None:
    """Shares of the samples: `x` steps `[n]`, `z` `[bins, n]` in %, edges in clip ranges; None if not recorded.

    Args:
        run: any.
        most: columns of the picture, each the sum of its iterations.
    """
    known = [(int(row["step"]), counts) for row in run.rows if (counts := read_counts(row.get("ratio_histogram")))]
    if not known:
        return None
    columns = min(most, len(known))
    parts = [known[i * len(known) // columns : (i + 1) * len(known) // columns] for i in range(columns)]
    sums = [[sum(counts[b] for _, counts in part) for b in range(BINS)] for part in parts]
    shares = [[round(100 * n / max(1, sum(column)), 2) for n in column] for column in sums]
    return {
        "x": [part[-1][0] for part in parts],
        "z": [list(line) for line in zip(*shares, strict=True)],
        "edges": list(EDGES),
        "clipped": run.settings.get("update.clip", "none") != "none",
    }
