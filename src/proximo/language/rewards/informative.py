"""How much a batch of scores says: whether there is anything to learn from, and on what scale."""

from torch import Tensor

from proximo.core.statistics import informative
from proximo.scale.mesh import ALONE, Mesh


def reward_scale(rewarded: Tensor, mesh: Mesh = ALONE) -> float:
    """The rewards' own scale, see `core.statistics.informative`.

    Where all `[B]` of all ranks are equal there is nothing to learn; their size, or 1, holds the critic's errors down.
    """
    scale = informative(rewarded, None, mesh)[1]
    return scale or float(mesh.gather(rewarded.abs().max().cpu()).max()) or 1.0


def reward_statistics(rewarded: Tensor) -> dict[str, float]:
    """By name: `informative_rewards`, the share of `[B]` that differs from the commonest value, which is
    `commonest_reward`; `best_reward`, the largest. Empty for a single one.
    """
    if len(rewarded) < 2:
        return {}
    values, counts = rewarded.unique(return_counts=True)
    return {
        "informative_rewards": informative(rewarded)[0],
        "commonest_reward": float(values[counts.argmax()]),
        "best_reward": float(rewarded.max()),
    }
