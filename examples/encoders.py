"""An encoder of your own for one key of a Dict observation; the other key reaches the hidden layers as it is."""

from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

import proximo


def make() -> gym.Env[Any, Any]:
    """HalfCheetah with its joints' positions [8] and velocities [9] under two keys."""
    box = gym.spaces.Box
    space = gym.spaces.Dict(
        {"positions": box(-torch.inf, torch.inf, (8,)), "velocities": box(-torch.inf, torch.inf, (9,))}
    )
    env = gym.make("HalfCheetah-v5")
    return gym.wrappers.TransformObservation(env, lambda x: {"positions": x[:8], "velocities": x[8:]}, space)


class Waves(nn.Module):
    """Sines and cosines of the positions, at two frequencies: `[B, 8]` -> `[B, 32]`."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([torch.sin(x), torch.cos(x), torch.sin(2 * x), torch.cos(2 * x)], 1)


def main(steps: int = 400_000, run: str = "runs/encoders") -> proximo.Run:
    return proximo.train(make, steps=steps, seed=0, run=run, encoders={"positions": Waves})


if __name__ == "__main__":
    print(main().results)
