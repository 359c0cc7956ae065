"""What several ranks have seen in one iteration, as one: episodes, and how metrics are put together."""

import torch

from proximo.control.environments.episodes import Episode
from proximo.control.training.rollout import Rollout
from proximo.core.ranks import Ranks
from proximo.scale.measured import Rules

RULES = Rules(
    sums={
        "reset_rows",
        "reset_row_weight",
        "terminations",
        "truncations",
        "truncations_missed",
        "truncations_compared",
        "truncations_faked",
        "truncations_approximated",
    },
    maxima={"observation_max", "observation_rms", "normalizers_moved"},
    squares={"value_rms", "return_rms", "return_std", "equivariance_error"},
    deviations={"reward_std": "reward_mean"},
    histograms={"ratio_histogram"},
)
"""How metrics of ranks become one."""


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
