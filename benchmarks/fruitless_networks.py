"""Networks of one's own that can not learn, each for one reason (`fruitless_networks:Detached`)."""

import torch
from torch import Tensor, nn


class _Net(nn.Module):
    """Two hidden layers for the actor and two for the critic, as the library's own."""

    def __init__(self, observations, outputs, width: int = 64) -> None:
        super().__init__()
        size = observations.vector_size
        self.actor, self.critic = (
            nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, n))
            for n in (outputs, 1)
        )

    def forward(self, inputs) -> tuple[Tensor, Tensor]:
        x = inputs["vector"]
        return self.actor(x), self.critic(x)


class Detached(_Net):
    """The actor's output is detached, so nothing reaches it."""

    def forward(self, inputs):
        outputs, value = super().forward(inputs)
        return outputs.detach() + 0.0 * self.actor[0].weight.sum(), value


class Timid(_Net):
    """The actor's output is squashed to ±0.0001: no policy but the random one can be said."""

    def forward(self, inputs):
        outputs, value = super().forward(inputs)
        return 1e-4 * torch.tanh(outputs), value


class Blind(_Net):
    """Reads zeros in the observation's place."""

    def forward(self, inputs):
        return super().forward({"vector": torch.zeros_like(inputs["vector"])})


class Saturated(_Net):
    """Starts with weights so large that every tanh is flat, and so is the choice."""

    def __init__(self, observations, outputs, width: int = 64) -> None:
        super().__init__(observations, outputs, width)
        with torch.no_grad():
            for parameter in self.actor.parameters():
                parameter.mul_(300.0)
