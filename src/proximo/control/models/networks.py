"""Actor-critic networks: separate MLPs for vectors, shared convolutions for images, an optional recurrent layer."""

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from proximo.control.config import NetworkSettings
from proximo.control.models.custom import CustomNetwork, Encoders
from proximo.control.models.recurrent import Memory
from proximo.control.spaces.groups import CRITIC
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU, "silu": nn.SiLU}


def linear(inputs: int, outputs: int, gain: float | None) -> nn.Linear:
    """A linear layer, orthogonal with `gain` and zero bias (Huang et al. 2022, detail 2); None keeps torch's own."""
    layer = nn.Linear(inputs, outputs)
    if gain is not None:
        nn.init.orthogonal_(layer.weight, gain)
        nn.init.zeros_(layer.bias)
    return layer


def mlp(sizes: tuple[int, ...], activation: str, orthogonal: bool) -> nn.Sequential:
    """Hidden layers, each followed by its activation; empty for a single size."""
    gain = math.sqrt(2) if orthogonal else None
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [linear(inputs, outputs, gain), ACTIVATIONS[activation]()]
    return nn.Sequential(*layers)


class NatureCNN(nn.Module):
    """The convolutions of DQN (Mnih et al. 2015): uint8 images `[B, C, H, W]` -> features `[B, 512]`."""

    size = 512

    def __init__(self, shape: tuple[int, ...], orthogonal: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(shape[0], 32, 8, 4), nn.Conv2d(32, 64, 4, 2), nn.Conv2d(64, 64, 3, 1)]
        layers = [layer for c in convolutions for layer in (c, nn.ReLU())]
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        if orthogonal:
            _orthogonal(self.convolutions)
        flat = self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.out = linear(flat, self.size, math.sqrt(2) if orthogonal else None)

    def forward(self, image: Tensor) -> Tensor:
        """Bytes are scaled to [0, 1] here, so a rollout can store bytes."""
        return functional.relu(self.out(self.convolutions(image.to(self.out.weight.dtype) / 255.0)))


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        return x + self.second(functional.relu(self.first(functional.relu(x))))


class ImpalaCNN(nn.Module):
    """The residual network of IMPALA (Espeholt et al. 2018, figure 3): uint8 `[B, C, H, W]` -> features `[B, 256]`."""

    size = 256

    def __init__(self, shape: tuple[int, ...], orthogonal: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = shape[0]
        for width in (16, 32, 32):
            layers += [
                nn.Conv2d(channels, width, 3, padding=1),
                nn.MaxPool2d(3, 2, 1),
                _Residual(width),
                _Residual(width),
            ]
            channels = width
        self.convolutions = nn.Sequential(*layers, nn.ReLU(), nn.Flatten())
        if orthogonal:
            _orthogonal(self.convolutions)
        flat = self.convolutions(torch.zeros(1, *shape)).shape[1]
        self.out = linear(flat, self.size, math.sqrt(2) if orthogonal else None)

    def forward(self, image: Tensor) -> Tensor:
        """Bytes are scaled to [0, 1] here, so a rollout can store bytes."""
        return functional.relu(self.out(self.convolutions(image.to(self.out.weight.dtype) / 255.0)))


def _orthogonal(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
    for block in module.modules():
        if isinstance(block, _Residual):
            # A block starts as the identity (Goyal et al. 2017, section 5.1): six blocks that each add a part of gain
            # √2 make features 5-20 times as large, which shuts the gates of a recurrent layer.
            nn.init.zeros_(block.second.weight)


class Features(nn.Module):
    """Encoded observations -> features `[..., width]`: convolutions of images beside the vector, or what own encoders
    make of its keys.
    """

    def __init__(self, observations: ObservationSpec, settings: NetworkSettings, encoders: Mapping[str, str]) -> None:
        super().__init__()
        self.encoders = Encoders(observations, encoders) if encoders else None
        encoded = [f"pixels.{key}" for key in encoders]
        self._names = tuple(name for name in observations.images if name not in encoded)
        self.images = nn.ModuleDict(
            # A module's name can not hold a dot, an image's may.
            {name.replace(".", "/"): _convolutions(name, observations.images[name], settings) for name in self._names}
        )
        self.width = (self.encoders.size if self.encoders else observations.vector_size) + sum(
            _feature_size(cnn) for cnn in self.images.values()
        )

    def features(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """`[..., width]` of encoded observations whose leading axes are `[...]`."""
        parts = []
        for name, cnn in zip(self._names, self.images.values(), strict=True):
            image = inputs[name]
            parts.append(cnn(image.flatten(0, -4)).unflatten(0, image.shape[:-3]))
        if self.encoders is not None:
            parts.append(self.encoders(inputs))
        elif "vector" in inputs:
            parts.append(inputs["vector"])
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]


class ActorCritic(Features):
    """Encoded observations -> what the action distribution needs, and a value.

    features -> memory, if any -> hidden layers of actor and critic (separate, or shared) -> two linear heads.

    A critic that sees other parts than the actor has features of its own and no memory (asymmetric actor-critic: Pinto
    et al. 2017, section IV.A). Its inputs begin with `critic.`; where they are not given there is no value.

    Args:
        observations: what the actor sees.
        outputs: numbers that the action distribution takes.
        settings: the layers.
        critic: what the critic sees; None for the same.
    """

    def __init__(
        self,
        observations: ObservationSpec,
        outputs: int,
        settings: NetworkSettings,
        critic: ObservationSpec | None = None,
    ) -> None:
        own = _encoders_of(observations, settings, critic)
        super().__init__(observations, settings, own)
        width = self.width
        self.memory = Memory(settings.memory, width, settings.memory_size) if settings.memory != "none" else None
        width = settings.memory_size if self.memory else width
        sizes = (width, *settings.hidden)
        self.actor = mlp(sizes, settings.activation, settings.orthogonal)
        self.sees = Features(critic, settings, _encoders_of(critic, settings, observations)) if critic else None
        """The critic's features, where they are not the actor's."""
        critic_sizes = (self.sees.width, *settings.hidden) if self.sees else sizes
        # Shared layers belong to both under one name: the critic is then the actor's module itself.
        self.critic = self.actor if settings.shared else mlp(critic_sizes, settings.activation, settings.orthogonal)
        self.actor_head = linear(sizes[-1], outputs, 0.01 if settings.orthogonal else None)
        self.value_head = linear(critic_sizes[-1], 1, 1.0 if settings.orthogonal else None)
        self.shows_hidden = settings.noise == "gsde"
        """Whether the actor's last hidden layer follows its outputs, for noise that is a function of it."""

    @property
    def state_size(self) -> int:
        """Numbers in the state of the memory; 0 without one."""
        return self.memory.state_size if self.memory else 0

    def step(self, inputs: Mapping[str, Tensor], state: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """One step: encoded `[..., ...]` and a state `[N, state_size]` -> outputs, values, the state afterwards.

        Values are None where the critic's own inputs are not given.
        """
        features = self.features(inputs)
        if self.memory:
            assert state is not None, "a recurrent policy needs its memory"
            features, state = self.memory.step(features, state)
        return *self.heads(features, inputs), state

    def sequence(self, inputs: Mapping[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Tensor, Tensor | None]:
        """Whole sequences `[B, T, ...]`; see `Memory`."""
        assert self.memory is not None
        return self.heads(self.memory(self.features(inputs), state, starts), inputs)

    def heads(self, features: Tensor, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Outputs for the action distribution `[..., outputs]` and values `[...]`."""
        hidden = self.actor(features)
        outputs = self.actor_head(hidden)
        if self.shows_hidden:  # what the noise costs is no reason for other features (Raffin et al. 2021, section 3)
            outputs = torch.cat([outputs, hidden.detach()], -1)
        if self.sees is not None:
            return outputs, self._own_value(self.sees, inputs)
        critic = hidden if self.critic is self.actor else self.critic(features)
        return outputs, self.value_head(critic).squeeze(-1)

    def _own_value(self, sees: Features, inputs: Mapping[str, Tensor]) -> Tensor | None:
        own = {name.removeprefix(CRITIC): x for name, x in inputs.items() if name.startswith(CRITIC)}
        if not own:
            return None
        value: Tensor = self.value_head(self.critic(sees.features(own))).squeeze(-1)
        return value


def _encoders_of(
    observations: ObservationSpec, settings: NetworkSettings, other: ObservationSpec | None
) -> dict[str, str]:
    """The own encoders for one role; what names no part that anybody sees stays, to be refused."""
    elsewhere = set() if other is None else other.keys.keys() - observations.keys.keys()
    return {key: path for key, path in settings.encoders.items() if key not in elsewhere}


def make_network(
    observations: ObservationSpec, outputs: int, settings: NetworkSettings, critic: ObservationSpec | None = None
) -> ActorCritic | CustomNetwork:
    """The network that the settings ask for; arguments as `ActorCritic`.

    Raises:
        UserError: one of the user's own can not be made.
    """
    if settings.custom:
        return CustomNetwork(observations, outputs, settings)
    return ActorCritic(observations, outputs, settings, critic)


def _feature_size(cnn: nn.Module) -> int:
    assert isinstance(cnn, NatureCNN | ImpalaCNN)
    return cnn.size


def _convolutions(name: str, shape: tuple[int, ...], settings: NetworkSettings) -> nn.Module:
    kind = settings.pixels
    if kind == "auto":
        kind = "nature" if min(shape[1:]) >= 36 else "impala"
    if kind == "nature" and min(shape[1:]) < 36:
        raise UserError(
            f"images of {shape[1]} x {shape[2]} ({name}) are too small for the Nature-CNN, which needs 36 x 36; "
            "set network.pixels to impala"
        )
    return (NatureCNN if kind == "nature" else ImpalaCNN)(shape, settings.orthogonal)
