"""The policy's deterministic action as one torch module, between the environment's own arrays."""

import numpy as np
import torch
from torch import Tensor, nn

from proximo.control.models.custom import CustomNetwork
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces import actions, observations
from proximo.core.distributions import Bernoulli, Categorical, Distribution, Product
from proximo.views.export.interface import Interface


class ExportedPolicy(nn.Module):
    """`ControlPolicy.act(deterministic=True)` between the environment's own arrays.

    Called with the interface's inputs in their order, each `[N, *shape]`; gives a tuple of its outputs in their order.
    It holds the same weights as the policy and does the same arithmetic in the same types.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, policy: ControlPolicy, interface: Interface) -> None:
        super().__init__()
        self.policy, self.interface = policy, interface
        self.vector = torch.float64 if interface.exact else torch.float32
        if policy.normalizer is not None:
            moments = policy.normalizer.moments
            self.register_buffer("mean", moments.mean.to(self.vector))
            self.register_buffer("scale", moments.scale().to(self.vector))

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        arrays = dict(zip((port.name for port in self.interface.inputs), given, strict=True))
        inputs = self._encode(arrays)
        outputs, state = self._step(inputs, arrays.get("state"))
        stored = self.policy.mode(outputs, inputs.get("mask"))
        columns = stored.split([part.width for part in self.policy.actions.parts], -1)
        decided = [self._leaf(part, x) for part, x in zip(self.policy.actions.parts, columns, strict=True)]
        logits = [] if self.interface.logits is None else [self._logits(outputs, inputs.get("mask"))]
        return (*decided, *logits, *([] if state is None else [state]))

    def _logits(self, outputs: Tensor | Distribution, mask: Tensor | None) -> Tensor:
        """Of all choices and switches `[N, K]`; the smallest number where a choice is masked."""
        if isinstance(outputs, Distribution):  # of a network of the user's own
            return logits_of(outputs)
        columns, choice = [], 0
        heads = outputs[..., : self.policy.actions.outputs].split([p.outputs for p in self.policy.actions.parts], -1)
        for part, x in zip(self.policy.actions.parts, heads, strict=True):
            if part.kind == "choice" and mask is not None:
                x = x.masked_fill(~mask[:, choice : choice + part.outputs], torch.finfo(x.dtype).min)
            choice += part.outputs if part.kind == "choice" else 0
            columns += [] if part.kind == "box" else [x]
        return torch.cat(columns, -1)

    def _encode(self, arrays: dict[str, Tensor]) -> dict[str, Tensor]:
        """As `ObservationSpec.encode`, and normalised."""
        encoded: dict[str, Tensor] = {}
        columns: list[Tensor] = []
        masks: list[Tensor] = [arrays["mask"]] if "mask" in arrays else []
        for part, port in zip(self.policy.observations.parts, self.interface.observations, strict=True):
            x = arrays[port.name]
            if part.kind == "vector":
                columns.append(x.reshape(x.shape[0], part.size).to(self.vector))
            elif part.kind == "one_hot":
                columns.append(self._one_hot(x, part))
            elif part.kind == "mask":
                masks.append(_flat_mask(x, part))
            else:
                name = ".".join(("pixels", *map(str, part.path)))
                encoded[name] = {"hwc": lambda x: x.permute(0, 3, 1, 2), "hw": lambda x: x.unsqueeze(1)}.get(
                    part.layout, lambda x: x
                )(x)
        if masks:
            encoded["mask"] = torch.cat(masks, 1)
        if columns:
            encoded["vector"] = self._normalized(torch.cat(columns, 1))
        return encoded

    def _normalized(self, vector: Tensor) -> Tensor:
        normalizer = self.policy.normalizer
        if normalizer is not None:
            vector = ((vector - self.mean) / self.scale).clamp(-normalizer.clip, normalizer.clip)
        return vector.to(self.policy.log_std.dtype)

    def _one_hot(self, values: Tensor, part: observations.Part) -> Tensor:
        index = values.reshape(values.shape[0], len(part.choices)) - torch.tensor(part.start)
        columns = [index[:, i : i + 1] == torch.arange(n) for i, n in enumerate(part.choices)]
        return torch.cat(columns, 1).to(self.vector)

    def _step(self, inputs: dict[str, Tensor], state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        network = self.policy.network
        if isinstance(network, CustomNetwork):
            outputs, _, state = network.step(inputs, state)
            return outputs, state
        features = network.features(inputs)  # without the critic, which nobody needs here
        if network.memory is not None:
            assert state is not None
            features, state = network.memory.step(features, state)
        return network.actor_head(network.actor(features)), state

    def _leaf(self, part: actions.Part, x: Tensor) -> Tensor:
        """As `ActionSpec.to_environment`, which computes in float64 too."""
        if part.kind == "box":
            first, last = (torch.from_numpy(bound) for bound in part.stored_bounds)
            x = x.tanh().double() if self.policy.actions.squashed else _clip(x.double(), first, last)
            if not part.unit:
                (low, high), (centre, half) = (map(torch.from_numpy, pair) for pair in (part.bounds, part.middle))
                x = _clip(centre + x * half, low, high)
            x = x.round() if part.whole else x
        elif part.kind == "choice":
            x = x.double() + torch.tensor(part.start)
        return x.to(getattr(torch, str(np.dtype(part.dtype)))).reshape(x.shape[0], *part.shape)


def logits_of(distribution: Distribution) -> Tensor:
    """Of all choices and switches in a distribution, `[..., K]`."""
    if isinstance(distribution, Product):
        return torch.cat([logits_of(part) for part in distribution.parts], -1)
    if isinstance(distribution, Bernoulli):
        return distribution.logits
    assert isinstance(distribution, Categorical) or distribution.event_size is not None
    return distribution.log_probs if isinstance(distribution, Categorical) else distribution.mode()[..., :0]


def _clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.minimum(torch.maximum(x, low), high)


def _flat_mask(mask: Tensor, part: observations.Part) -> Tensor:
    """As `flat_masks`: a padded table without its padding."""
    flat = mask.reshape(mask.shape[0], int(np.prod(part.shape, dtype=int)))
    if not part.choices:
        return flat
    kept = np.concatenate([np.arange(max(part.choices)) < count for count in part.choices])
    return flat[:, torch.from_numpy(np.flatnonzero(kept))]
