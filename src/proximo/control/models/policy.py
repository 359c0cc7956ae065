"""A control policy: normaliser, networks and action scaling in one object, which is what is put on a robot."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from gymnasium import Space
from torch import Tensor, nn

from proximo.control.config import NetworkSettings
from proximo.control.models.custom import CustomNetwork
from proximo.control.models.networks import ActorCritic, make_network
from proximo.control.models.noise import Noise, basis
from proximo.control.models.normalizers import ObservationNormalizer, ValueNormalizer
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.groups import CRITIC
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.batch import Action, Batch, Evaluation
from proximo.core.distributions import Distribution, Gaussian, parts_of
from proximo.core.invariants import gaussian_ratio_tolerance, ratio_tolerance
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping

MIRRORED = "mirror.memory"
"""Input of a batch that no network reads: the memory of its mirror image `[B, S]` (`models.mirroring`)."""
TAUGHT = "taught"
"""The same: the outputs of a teacher's head and its log standard deviations `[B, ...]` (`control.distillation`)."""


@dataclass(frozen=True)
class _Description:
    observations: ObservationSpec
    actions: ActionSpec
    network: NetworkSettings
    normalize_observations: bool
    clip: float
    frame_stack: int
    masked: bool = field(default=False, compare=False)
    critic_observations: ObservationSpec | None = None


class ControlPolicy(nn.Module):
    """Encoded observations in, actions out.

    Inputs are what `ObservationSpec.encode` gives, as tensors: `vector` `[..., D]`, images `[..., C, H, W]`, `mask`
    `[..., K]`. A batch of a recurrent policy holds whole sequences `[B, T, ...]`, with `memory` `[B, S]` (before the
    first step) and `starts` `[B, T]` among its inputs. Where the critic sees other parts than the actor, its inputs are
    `critic.vector` and so on; whoever only acts leaves them out.
    """

    log_std: Tensor
    std: Tensor

    def __init__(
        self,
        observations: ObservationSpec,
        actions: ActionSpec,
        settings: NetworkSettings,
        *,
        normalize_observations: bool = False,
        clip: float = 10.0,
        frame_stack: int = 1,
        masked: bool = False,
        critic_observations: ObservationSpec | None = None,
    ) -> None:
        super().__init__()
        self.wrappers: dict[str, np.ndarray] = {}
        """What wrappers of the user's own have learnt of the observations that it was trained on; none in most."""
        self.masked = masked
        """Whether it was trained with action masks from `info`, which it then has to be given."""
        self.frame_stack = frame_stack
        self.observations, self.actions, self.settings = observations, actions, settings
        self.critic_observations = critic_observations
        """What the critic sees, where that is not what the actor sees."""
        made = partial(_normalizer, wanted=normalize_observations, clip=clip)
        self.normalizer, self.critic_normalizer = made(observations), made(critic_observations)
        self.values = ValueNormalizer()
        self.noise = Noise(settings, 0 if actions.beta else actions.continuous)
        outputs = actions.outputs + self.noise.outputs
        self.network = make_network(observations, outputs, settings, critic_observations)
        self._register_noise()

    def _register_noise(self) -> None:
        """Make room for what is learnt of the deviation: `log_std`, or `std` where it is learnt as it is.

        Raises:
            UserError: a network of the user's own gives deviations, and the settings ask for others.
        """
        own = isinstance(self.network, CustomNetwork) and self.network.gives_distribution
        if own and self.settings.noise != "log":
            raise UserError(
                f"network.noise = {self.settings.noise} has no say in {self.settings.custom}, which gives whole "
                "distributions: leave it out, or give outputs instead"
            )
        width = self.network.actor_head.in_features if isinstance(self.network, ActorCritic) else 0
        numbers = torch.zeros(0) if own else self.noise.numbers(width)
        scalar = self.noise.kind == "scalar"
        first = torch.zeros(0) if scalar else numbers
        if self.noise.kind == "fixed":
            self.register_buffer("log_std", first)
        else:
            self.log_std = nn.Parameter(first)
        if scalar:
            self.std = nn.Parameter(numbers)

    @property
    def noise_numbers(self) -> Tensor:
        """What the deviations of all states follow from; empty where each state has its own, or none has any."""
        return self.std if self.noise.kind == "scalar" else self.log_std

    def deviations(self) -> Tensor | None:
        """Log standard deviations of the continuous columns, `[continuous]`; None where each state has its own."""
        numbers = self.noise_numbers
        return None if self.noise.of_state or not len(numbers) else self.noise.log_std(numbers)

    def parameters_by_layer(self) -> list[nn.Parameter]:
        """All parameters; where actor and critic are separate, their layers of one depth follow each other, so that a
        flat vector of them has the two as one array (`closed_form`).
        """
        if not isinstance(self.network, ActorCritic):
            return list(dict.fromkeys(self.parameters()))
        networks = (self.network.actor, self.network.critic)
        both = [[*network.parameters()] for network in networks]
        # The first weights, the only ones with an input's width, may differ.
        alike = not self.settings.shared and [p.shape for p in both[0]][1:] == [p.shape for p in both[1]][1:]
        paired = [p for pair in zip(*both, strict=True) for p in pair] if alike else []
        return list(dict.fromkeys([*paired, *self.parameters()]))  # each once, also where layers share one

    def parameters_by_role(self) -> dict[str, list[nn.Parameter]]:
        """Those of the critic alone, and all others as the actor's, what both share among them.

        Raises:
            UserError: the network is one of the user's own, which does not say.
        """
        network = self.network
        if not isinstance(network, ActorCritic):
            raise UserError(
                f"{self.settings.custom} does not say which layers are the critic's, so update.max_actor_grad_norm and "
                "max_critic_grad_norm can not be: set update.max_grad_norm, which is of the whole gradient"
            )
        layers = [network.value_head, *([] if network.critic is network.actor else [network.critic])]
        critic = {id(p) for m in [*layers, *([network.sees] if network.sees else [])] for p in m.parameters()}
        roles: dict[str, list[nn.Parameter]] = {"actor": [], "critic": []}
        for p in self.parameters():
            roles["critic" if id(p) in critic else "actor"].append(p)
        return roles

    @property
    def memory_size(self) -> int:
        """Numbers in the state of a recurrent policy; 0 for one without memory."""
        return self.network.state_size

    def initial_memory(self, count: int) -> Tensor | None:
        """The state at the start of an episode, `[count, memory_size]`; None without memory."""
        return next(self.network.parameters()).new_zeros(count, self.memory_size) if self.memory_size else None

    def distribution(self, outputs: Tensor | Distribution, mask: Tensor | None) -> Distribution:
        """Over the actions, from the head's outputs `[..., outputs]`; a network of the user's own may give it whole."""
        if isinstance(outputs, Distribution):
            return outputs
        return self.actions.distribution(*self._apart(outputs), mask)

    def label(self, outputs: Tensor) -> Tensor:
        """All that the distribution follows from, of the head's outputs: those of the actions, and log standard
        deviations, `[..., label_size]`.
        """
        means, log_std = self._apart(outputs)
        return torch.cat([means, log_std.expand(*means.shape[:-1], -1)], -1)

    @property
    def label_size(self) -> int:
        """Numbers in a `label`, which are as many for all policies that act alike."""
        return self.actions.outputs + self.noise.columns

    def _apart(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """The head's outputs of the actions, and log standard deviations, of all states or of each."""
        if not self.noise.of_state:
            log_std = self.deviations()
            return outputs, self.log_std if log_std is None else log_std
        # How numbers lie in memory may decide their last bits, and stored actions lie side by side.
        outputs, raw = (x.contiguous() for x in outputs.tensor_split([self.actions.outputs], -1))
        return outputs, self.noise.log_std_of_state(raw, self.log_std)

    @torch.no_grad()
    def project(self) -> None:
        """Put what is learnt of the deviation back into its range, in place.

        A clamp has no gradient outside its bounds, so a step that left them could never be taken back (projected
        gradient: Bertsekas 1976, eq. 2).
        """
        self.noise_numbers.clamp_(*self.noise.bounds)

    @torch.no_grad()
    def ratio_tolerance(self, batch: Batch) -> float:
        """How far rounding alone may take the first ratio of `batch` from 1, see `core.invariants`."""
        dtype = batch.log_prob.dtype
        columns = self.actions.continuous_columns
        log_std = self.deviations()
        if log_std is None and self.noise.of_state and columns:
            seen = (self.look(part.inputs)[0] for part in batch.split(8))
            normals = [part for each in seen for part in parts_of(each) if isinstance(part, Gaussian)]
            log_std = torch.stack([part.log_std.min() for part in normals])
        actions = batch.action[..., columns][batch.weight > 0]
        if not actions.numel() or log_std is None:
            return ratio_tolerance(dtype)
        width = max((p[0].numel() for p in self.network.parameters() if p.dim() > 1), default=1)
        return gaussian_ratio_tolerance(dtype, width, float(actions.abs().max()), float(log_std.min().exp()))

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-prob, entropy and value of a batch, with gradient."""
        distribution, value = self.look(batch.inputs)
        return Evaluation(distribution.log_prob(batch.action), distribution.entropy(), value, distribution)

    def teacher(self, batch: Batch) -> Distribution:
        """What its teacher says of each sample, where the batch is of a distillation."""
        outputs, log_std = batch.inputs[TAUGHT].split([self.actions.outputs, self.noise.columns], -1)
        return self.actions.distribution(outputs, log_std, batch.inputs.get("mask"))

    def look(self, inputs: Mapping[str, Tensor]) -> tuple[Distribution, Tensor]:
        """What the policy would do, and the critic's output, with gradient."""
        seen = self._normalized({name: x for name, x in inputs.items() if name not in (TAUGHT, MIRRORED)})
        if self.memory_size:
            outputs, value = self.network.sequence(seen, seen["memory"], seen["starts"])
        else:
            outputs, value, _ = self.network.step(seen, None)
        return self.distribution(outputs, inputs.get("mask")), _known(value)

    @torch.no_grad()
    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        deterministic: bool = False,
        noise: Tensor | None = None,
    ) -> Action:
        """Choose actions for `[N]` observations.

        Args:
            inputs: encoded, each `[N, ...]`.
            memory: `[N, memory_size]`, already zero where an episode starts.
            generator: for the noise, on the policy's device.
            deterministic: the mode instead of a sample.
            noise: what `draw_noise` gave, for some steps; each step has its own if None.

        Returns:
            The stored action `[N, width]`, its log-prob and the critic's output `[N]`, and the memory afterwards. The
            output is None where the critic's own inputs are not given.
        """
        outputs, value, memory = self.network.step(self._normalized(inputs), memory)
        distribution = self.distribution(outputs, inputs.get("mask"))
        action = distribution.mode() if deterministic else distribution.sample(generator)
        if noise is not None and not deterministic:
            assert isinstance(outputs, Tensor)
            mean = torch.cat([p.mean for p in parts_of(distribution) if isinstance(p, Gaussian)], -1)
            moved = basis(outputs[..., self.actions.outputs :]).unsqueeze(-2) @ noise
            action[..., self.actions.continuous_columns] = mean + moved.squeeze(-2)
        return Action(action, distribution.log_prob(action), value, memory)

    def draw_noise(self, count: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Noise of `count` environments that stays for some steps; None where each step has its own."""
        return self.noise.draw(self.noise_numbers, count, generator)

    def mode(self, outputs: Tensor | Distribution, mask: Tensor | None) -> Tensor:
        """The deterministic action from the head's outputs, whatever the noise."""
        if isinstance(outputs, Distribution):
            return outputs.mode()
        none = outputs.new_zeros(self.actions.continuous)
        return self.actions.distribution(outputs[..., : self.actions.outputs], none, mask).mode()

    @torch.no_grad()
    def outputs(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """The head's outputs `[N, outputs]` and the memory afterwards; arguments as `act`."""
        outputs, _, memory = self.network.step(self._normalized(inputs), memory)
        return outputs, memory

    @torch.no_grad()
    def step_distribution(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Distribution:
        """Over the stored actions for `[N]` observations; memory as in `act`, not moved."""
        return self.distribution(self.network.step(self._normalized(inputs), memory)[0], inputs.get("mask"))

    @torch.no_grad()
    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """`[...]`, of actions `[..., width]`, from what they were drawn from: `[..., outputs]`, masked already."""
        return self.distribution(output, None).log_prob(action)

    @torch.no_grad()
    def value(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:
        """The critic's output `[...]` without acting; memory as in `act`, not moved."""
        return _known(self.network.step(self._normalized(inputs), memory)[1])

    @torch.no_grad()
    def sequence_values(self, inputs: Mapping[str, Tensor], memory: Tensor, starts: Tensor) -> Tensor:
        """The critic's output over whole sequences.

        Args:
            inputs: encoded, each `[B, T, ...]`.
            memory: `[B, memory_size]`, before the first step.
            starts: `[B, T]`, True where an episode starts.

        Returns:
            `[B, T]`.
        """
        return _known(self.network.sequence(self._normalized(inputs), memory, starts)[1])

    @property
    def normalizers(self) -> dict[str, ObservationNormalizer]:
        """Those of observations there are, by the input that each normalises."""
        there = {"vector": self.normalizer, f"{CRITIC}vector": self.critic_normalizer}
        return {name: normalizer for name, normalizer in there.items() if normalizer is not None}

    def _normalized(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """In the networks' type; the mean is taken off before digits are, where these matter."""
        if not (normalizers := self.normalizers):
            return inputs
        dtype, seen = self.log_std.dtype, dict(inputs)
        for name, normalizer in normalizers.items():
            vector = inputs.get(name)
            if vector is None:  # nobody asks the critic
                continue
            if vector.dtype != torch.float64 or dtype == torch.float64:
                seen[name] = normalizer(vector)
            else:
                seen[name] = normalizer(vector).to(dtype) if normalizer.far else normalizer(vector.to(dtype))
        return seen

    def encode(self, observation: Any, exact: bool = False) -> dict[str, np.ndarray]:
        """Encode a batch of observations for actor and critic; arguments as `ObservationSpec.encode`."""
        encoded = self.observations.encode(observation, exact)
        return encoded if self.critic_observations is None else encoded | self.encode_critic(observation, exact)

    def encode_critic(self, observation: Any, exact: bool = False) -> dict[str, np.ndarray]:
        """What the critic alone sees, as `encode`; nothing where it sees what the actor sees."""
        own = None if self.critic_observations is None else self.critic_observations.encode(observation, exact)
        return {CRITIC + name: x for name, x in (own or {}).items()}

    @property
    def value_head(self) -> nn.Linear:
        """The critic's last layer.

        Raises:
            UserError: a network of the user's own does not name it.
        """
        head = getattr(getattr(self.network, "module", self.network), "value_head", None)
        if not isinstance(head, nn.Linear) or head.bias is None or head.out_features != 1:
            raise UserError(
                "normalizers.rewards = return corrects the critic's last layer: name it value_head, an "
                f"nn.Linear(..., 1) with a bias, in the network {self.settings.custom}, or set "
                "normalizers.rewards to scale"
            )
        return head

    @property
    def exact_observations(self) -> bool:
        """Whether it must be shown observations in float64, see `ObservationNormalizer.far`."""
        return any(normalizer.far for normalizer in self.normalizers.values())

    def require_spaces(self, observation: Space, action: Space, mask_key: str | None) -> None:
        """Refuse an environment whose spaces are not those that the policy was made for.

        Raises:
            UserError: they differ.
        """
        actions = self.actions.of_other(action)
        seen = ObservationSpec.of(observation, mask_key, actions.mask_size, actions.choices)
        own = self.critic_observations
        same = {*seen.parts} == {*self.observations.parts, *(own.parts if own else ())}
        if not same or actions != self.actions:
            raise UserError(
                f"the environment has changed since the run began: its observations are now {observation} and its "
                f"actions {action}, which this policy was not made for; put it back, or train a new run"
            )

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, as plain data: `ControlPolicy.build` makes the same policy from it."""
        description = {
            "observations": asdict(self.observations),
            "actions": asdict(self.actions),
            "network": asdict(self.settings),
            "normalize_observations": self.normalizer is not None,
            "clip": self.normalizer.clip if self.normalizer else 10.0,
            "frame_stack": self.frame_stack,
            "masked": self.masked,
            "critic_observations": None if self.critic_observations is None else asdict(self.critic_observations),
        }
        return dict(json.loads(json.dumps(description)))  # tuples become lists, as JSON gives them back

    def matches(self, description: Mapping[str, Any]) -> bool:
        """Whether a description is of a policy for the same spaces and of the same settings."""
        return _read(description) == _read(self.describe())

    @classmethod
    def build(cls, description: Mapping[str, Any]) -> "ControlPolicy":
        """A policy as described, with fresh weights.

        Raises:
            UserError: the description is not one of ours.
        """
        read = _read(description)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay what they are
            return cls(
                read.observations,
                read.actions,
                read.network,
                normalize_observations=read.normalize_observations,
                clip=read.clip,
                frame_stack=read.frame_stack,
                masked=read.masked,
                critic_observations=read.critic_observations,
            )


def _normalizer(seen: ObservationSpec | None, *, wanted: bool, clip: float) -> ObservationNormalizer | None:
    """Of what somebody sees; None where there is nothing to normalise."""
    return ObservationNormalizer(seen.vector_size, clip) if wanted and seen and seen.vector_size else None


def _known(value: Tensor | None) -> Tensor:
    """A value that was asked for.

    Raises:
        ValueError: the critic's own inputs were not given.
    """
    if value is None:
        raise ValueError("the critic sees parts of its own, and its inputs `critic.*` are not given")
    return value


def _read(description: Mapping[str, Any]) -> _Description:
    return from_mapping(_Description, description, where="the policy's description")
