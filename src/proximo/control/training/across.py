"""What several ranks have seen in one iteration, as one: episodes, and metrics that are the same on all of them."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proximo.control.environments.episodes import Episode
from proximo.control.training.rollout import Rollout
from proximo.core.ranks import Ranks

_SUMS = {
    "reset_rows",
    "reset_row_weight",
    "terminations",
    "truncations",
    "truncations_missed",
    "truncations_compared",
    "truncations_faked",
    "truncations_approximated",
}
_MAXIMA = {"observation_max", "observation_rms", "normalizers_moved"}
_SQUARES = {"value_rms", "return_rms", "return_std", "equivariance_error"}
"""Root mean squares over each rank's own samples; the deviation of returns is that within ranks."""
_HISTOGRAM = "ratio_histogram"


def seen_by_all(rollout: Rollout, ranks: Ranks) -> tuple[int, list[Episode]]:
    """Environment steps, and the episodes that ended, of all ranks in their order."""
    if ranks.size == 1:
        return rollout.steps, list(rollout.episodes)
    counts = ranks.gather(torch.tensor([rollout.steps, len(rollout.episodes)]))
    most = int(counts[:, 1].max())
    if not most:
        return int(counts[:, 0].sum()), []
    mine = torch.zeros(most, 3, dtype=torch.float64)
    if rollout.episodes:
        mine[: len(rollout.episodes)] = torch.tensor(rollout.episodes, dtype=torch.float64)
    every = ranks.gather(mine)
    rows = [row for rank, count in enumerate(counts[:, 1].tolist()) for row in every[rank, :count].tolist()]
    return int(counts[:, 0].sum()), [Episode(value, int(length), task) for value, length, task in rows]


def merged(metrics: Mapping[str, Any], weight: float, ranks: Ranks) -> dict[str, Any]:
    """Metrics of all ranks as one, by one sum: counts are added, means are means of all samples.

    Args:
        metrics: of this rank, numbers or None, the same names on all.
        weight: samples that means are taken over.
        ranks: that have the others.
    """
    if ranks.size == 1:
        return dict(metrics)
    numbers = {name: float(x) for name, x in metrics.items() if isinstance(x, int | float)}
    counts = [float(x) for x in str(metrics.get(_HISTOGRAM) or "").split()]
    packed = torch.tensor([weight, *numbers.values(), *counts], dtype=torch.float64)
    table = ranks.gather(packed)
    share = table[:, 0] / table[:, 0].sum()
    columns = dict(zip(numbers, table[:, 1 : 1 + len(numbers)].T, strict=True))
    told = {**metrics, **{name: _one(name, column, share, metrics[name]) for name, column in columns.items()}}
    if "reward_std" in columns:
        mean, deviation = columns["reward_mean"], columns["reward_std"]
        told["reward_std"] = math.sqrt(float((share * (deviation**2 + (mean - told["reward_mean"]) ** 2)).sum()))
    if counts:
        told[_HISTOGRAM] = " ".join(str(int(x)) for x in table[:, 1 + len(numbers) :].sum(0))
    return told


def _one(name: str, column: Tensor, share: Tensor, own: float) -> float:
    if bool((column == column[0]).all()) and name not in _SUMS:
        return own  # known to all already, perhaps as a whole number
    if name in _SUMS:
        return type(own)(column.sum())
    if name in _MAXIMA:
        return float(column.max())
    if name in _SQUARES:
        return math.sqrt(float((share * column**2).sum()))
    return float((share * column).sum())
