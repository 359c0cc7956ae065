"""An algorithm of your own: REINFORCE with a baseline of the batch (Williams 1992), without a critic or a clip."""

from dataclasses import dataclass

import torch
from torch import Tensor

import proximo
from proximo.algorithms import PPO, Transitions
from proximo.core.advantages import gae


@dataclass(frozen=True)
class Reinforce(PPO):
    """One step up the gradient of the returns that were seen, each rollout used once."""

    epochs: int = 1
    clip: float | str | None = None
    value_coefficient: float = 0.0
    critic = False

    def estimate(self, rollout: Transitions) -> tuple[Tensor, Tensor]:
        """Discounted sums of rewards to the end of the episode; `normalize_advantages` takes their mean off."""
        nothing = torch.zeros_like(rollout.values)
        return gae(rollout.rewards, nothing, nothing, rollout.terminated, rollout.done, gamma=rollout.gamma, lam=1.0)


def main(steps: int = 100_000, run: str = "runs/own-algorithm") -> proximo.Run:
    return proximo.train("CartPole-v1", Reinforce, steps=steps, seed=0, run=run, learning_rate=0.003)


if __name__ == "__main__":
    print(main().results)
