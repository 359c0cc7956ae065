"""A network of your own that reads two parts of a Dict observation, with an argument of its own."""

import functools
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor, nn

import proximo


def make() -> gym.Env[Any, Any]:
    """A pendulum whose observation has two parts: `angle` [2] and `speed` [1]."""
    space = gym.spaces.Dict({"angle": gym.spaces.Box(-1, 1, (2,)), "speed": gym.spaces.Box(-8, 8, (1,))})
    env = gym.make("Pendulum-v1")
    return gym.wrappers.TransformObservation(env, lambda x: {"angle": x[:2], "speed": x[2:]}, space)


class Net(nn.Module):
    """Features of the angle are scaled by features of the speed."""

    def __init__(self, observations: Any, outputs: int, width: int = 64) -> None:
        super().__init__()
        self.angle, self.speed = (nn.Linear(*observations.keys[key], width) for key in ("angle", "speed"))
        self.actor, self.critic = nn.Linear(width, outputs), nn.Linear(width, 1)

    def forward(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        hidden = torch.tanh(self.angle(inputs["angle"])) * torch.tanh(self.speed(inputs["speed"]) / 8)
        return self.actor(hidden), self.critic(hidden)


def main(steps: int = 200_000, run: str = "runs/own-network") -> proximo.Run:
    return proximo.train(make, steps=steps, seed=0, run=run, network=functools.partial(Net, width=128))


if __name__ == "__main__":
    print(main().results)
