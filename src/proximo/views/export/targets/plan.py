"""The actor as a list of plain layers, for targets that have no torch."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from proximo.control.models.networks import ActorCritic, ImpalaCNN, NatureCNN, _Residual
from proximo.control.models.policy import ControlPolicy
from proximo.errors import UserError

Layer = list[Any]
"""`["dense", weights]`, `["tanh"]` (or relu, elu, silu), `["convolution", weights, stride, padding]`,
`["pool", size, stride, padding]`, `["residual", weights of both]` or `["flatten"]`. A layer's weights are
NAME.weight and NAME.bias."""

_ACTIVATIONS = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.ELU: "elu", nn.SiLU: "silu"}


@dataclass(frozen=True)
class Plan:
    """Images, then the memory, then the hidden layers and the head."""

    images: dict[str, list[Layer]]
    """By key of the encoded observation; their features come before the vector's numbers."""
    memory: str
    """gru, lstm or none; its weights are memory.weight_ih and so on."""
    actor: list[Layer]
    weights: dict[str, np.ndarray] = field(default_factory=dict)
    """float32, named as the layers name them."""


def plan_of(policy: ControlPolicy, target: str) -> Plan:
    """The actor of a policy, layer by layer.

    Raises:
        UserError: a network or an encoder of the user's own is in it.
    """
    network = policy.network
    if not isinstance(network, ActorCritic) or network.encoders is not None:
        own = policy.settings.custom or ", ".join(policy.settings.encoders.values())
        raise UserError(f"{own} is code of your own, which {target} has no layers for: export --to onnx or torchscript")
    weights: dict[str, np.ndarray] = {}
    images = {
        name: _layers(cnn, f"images.{i}", weights)
        for i, (name, cnn) in enumerate(zip(policy.observations.images, network.images.values(), strict=True))
    }
    if network.memory is not None:
        for name, parameter in network.memory.layer.named_parameters():
            weights[f"memory.{name.removesuffix('_l0')}"] = parameter.detach().numpy()
    actor = _layers(network.actor, "actor", weights) + _layers(network.actor_head, "head", weights)
    for name in ("head.weight", "head.bias"):  # what follows is the noise of a state, and an export has none
        weights[name] = weights[name][: policy.actions.outputs]
    return Plan(images, network.memory.kind if network.memory is not None else "none", actor, weights)


def _layers(module: nn.Module, name: str, weights: dict[str, np.ndarray]) -> list[Layer]:
    if type(module) in _ACTIVATIONS:
        return [[_ACTIVATIONS[type(module)]]]
    if isinstance(module, nn.Sequential):
        return [layer for key, inner in module.named_children() for layer in _layers(inner, f"{name}.{key}", weights)]
    if isinstance(module, NatureCNN | ImpalaCNN):
        out = _layers(module.out, f"{name}.out", weights)
        return [*_layers(module.convolutions, name, weights), *out, ["relu"]]
    if isinstance(module, _Residual):
        for key in ("first", "second"):
            _layers(getattr(module, key), f"{name}.{key}", weights)
        return [["residual", f"{name}.first", f"{name}.second"]]
    if isinstance(module, nn.MaxPool2d):
        return [["pool", module.kernel_size, module.stride, module.padding]]
    if isinstance(module, nn.Flatten):
        return [["flatten"]]
    assert isinstance(module, nn.Linear | nn.Conv2d), module
    assert module.bias is not None
    weights[f"{name}.weight"], weights[f"{name}.bias"] = (x.detach().numpy() for x in (module.weight, module.bias))
    if isinstance(module, nn.Linear):
        return [["dense", name]]
    return [["convolution", name, module.stride[0], int(module.padding[0])]]
