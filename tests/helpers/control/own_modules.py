"""Networks, encoders and algorithms of a user's own."""

from dataclasses import dataclass

import torch
from torch import nn

from proximo.algorithms import PPO
from proximo.control.config import NetworkSettings
from proximo.control.models.networks import ActorCritic
from proximo.core.advantages import gae
from proximo.core.distributions import Gaussian


class Ours(nn.Module):
    """Our own network, under another name: what comes of it must be what comes of ours."""

    def __init__(self, observations, outputs, hidden=32, memory="none"):
        super().__init__()
        settings = NetworkSettings(hidden=(hidden,), memory=memory, memory_size=8)
        self.inner = ActorCritic(observations, outputs, settings)
        self.state_size = self.inner.state_size

    @property
    def value_head(self):
        return self.inner.value_head

    def forward(self, inputs, state=None):
        given = {name: x for name, x in inputs.items() if name in ("vector", "mask") or name.startswith("pixels")}
        outputs, value, after = self.inner.step(given, state)
        return (outputs, value) if state is None else (outputs, value, after)


class Theirs(Ours):
    """The same, of another name."""


class ByKey(nn.Module):
    """Reads two keys of a Dict; values as a column."""

    def __init__(self, observations, outputs):
        super().__init__()
        self.sizes = dict(observations.keys)
        self.body = nn.Linear(sum(x[0] for x in self.sizes.values()), 16)
        self.actor, self.critic = nn.Linear(16, outputs), nn.Linear(16, 1)

    def forward(self, inputs):
        hidden = torch.tanh(self.body(torch.cat([inputs[key] for key in sorted(self.sizes)], 1)))
        return self.actor(hidden), self.critic(hidden)


class OwnDeviations(nn.Module):
    """Deviations that depend on the state: it gives the whole distribution."""

    def __init__(self, observations, outputs):
        super().__init__()
        self.body = nn.Linear(observations.vector_size, 16)
        self.mean, self.log_std, self.value = nn.Linear(16, outputs), nn.Linear(16, outputs), nn.Linear(16, 1)

    def forward(self, inputs):
        hidden = torch.tanh(self.body(inputs["vector"]))
        return Gaussian(self.mean(hidden), self.log_std(hidden).clamp(-3, 1)), self.value(hidden)


class Same(nn.Module):
    """An encoder that changes nothing."""

    def __init__(self, shape):
        super().__init__()

    def forward(self, x):
        return x.flatten(1).float()


class Doubled(Same):
    """An encoder whose output is known."""

    def forward(self, x):
        return 2.0 * super().forward(x)


def no_module(observations, outputs):
    """What is no network."""
    return 5


class Narrow(Ours):
    """Gives one output too few."""

    def forward(self, inputs, state=None):
        outputs, value = super().forward(inputs)
        return outputs[:, 1:], value


class Dropping(Ours):
    """With all kinds of dropout."""

    def __init__(self, observations, outputs):
        super().__init__(observations, outputs)
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.5, batch_first=True)
        self.memory = nn.GRU(4, 4, num_layers=2, dropout=0.5, batch_first=True)

    def forward(self, inputs, state=None):
        x = self.memory(self.layer(inputs["vector"].unsqueeze(1)))[0].squeeze(1)
        return super().forward({"vector": x})


class Alone(Ours):
    """One output instead of two."""

    def forward(self, inputs, state=None):
        return super().forward(inputs)[0]


class Failing(Ours):
    """Fails when it is asked."""

    def forward(self, inputs, state=None):
        return inputs["camera"]


@dataclass(frozen=True)
class Anchored(PPO):
    """PPO with a price for the size of the mean output, and a statistic of it."""

    anchor: float = 0.0

    def loss(self, seen, batch, progress, policy):
        loss, statistics = super().loss(seen, batch, progress, policy)
        price = batch.mean(seen.value**2)
        return loss + self.anchor * price, {**statistics, "anchor": price.detach()}


class Plain(PPO):
    """No settings of its own."""

    def loss(self, seen, batch, progress, policy):
        loss, statistics = super().loss(seen, batch, progress, policy)
        return loss, {"own": 1.0, **statistics}


class Undecorated(PPO):
    """A setting that the dataclass does not know."""

    mine: float = 1.0


@dataclass(frozen=True)
class Flat(PPO):
    """Estimates of another shape."""

    def estimate(self, rollout):
        return rollout.rewards.sum(0), rollout.rewards.sum(0)


@dataclass(frozen=True)
class Talkative(Anchored):
    """Statistics in a random order, of which one is there now and then, one is no mean and one no number."""

    def loss(self, seen, batch, progress, policy):
        loss, statistics = super().loss(seen, batch, progress, policy)
        many = bool(batch.advantages.sum() > 0)
        told = {"seven": 7.0, **statistics, "nothing": float("nan")} | ({"some": 3.0} if many else {})
        return loss, dict(sorted(told.items(), reverse=many))


@dataclass(frozen=True)
class Steeper(Anchored):
    """The same with another default."""

    epochs: int = 3


@dataclass(frozen=True)
class MonteCarlo(PPO):
    """Advantages are whole returns: no critic is asked. Two epochs, whatever a preset says."""

    epochs: int = 2
    value_coefficient: float = 0.0
    critic = False

    def estimate(self, rollout):
        zeros = torch.zeros_like(rollout.values)
        ends = rollout.terminated, rollout.done
        return gae(rollout.rewards, zeros, zeros, *ends, gamma=rollout.gamma, lam=1.0)
