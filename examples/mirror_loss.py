"""PPO with a term of your own: a robot whose left is its right should act alike in mirrored states (Yu et al. 2018)."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import proximo
from proximo.algorithms import PPO

# InvertedPendulum-v5 on a mirror: all four numbers of the state and the force change their signs.
STATE, ACTION = -torch.ones(4), -torch.ones(1)


@dataclass(frozen=True)
class MirrorPPO(PPO):
    """The mean action in the mirrored state should be the mirrored mean action."""

    mirror: float = 1.0

    def loss(self, seen: Any, batch: Any, progress: float, policy: Any) -> tuple[Tensor, dict[str, Any]]:
        loss, statistics = super().loss(seen, batch, progress, policy)
        mirrored = policy.evaluate(batch.replace(inputs={"vector": batch.inputs["vector"] * STATE}))
        gap = mirrored.distribution.mode() - seen.distribution.mode() * ACTION
        price = batch.mean(gap.square().sum(-1))
        return loss + self.mirror * price, {**statistics, "mirror": price.detach()}


def main(steps: int = 100_000, run: str = "runs/mirror-loss") -> proximo.Run:
    # Unnormalised observations, so that a changed sign is the mirror.
    plain = {"observations": False}
    return proximo.train(
        "InvertedPendulum-v5", MirrorPPO, steps=steps, seed=0, run=run, update={"mirror": 4.0}, normalizers=plain
    )


if __name__ == "__main__":
    print(main().results)
