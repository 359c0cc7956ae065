"""What the closed form was derived from, by identity: anything else that a policy or a loss may have become is not it.

A class that only looks alike, a patched method, a hook, another activation: each of them changes the gradient, and none
of them is seen in the settings. So everything that takes part is compared with what it was when this file was read,
and was to be ours or torch's then.
"""

import os
from collections.abc import Iterator
from inspect import getattr_static
from pathlib import Path
from types import FunctionType
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

from proximo.algorithms import ppo
from proximo.algorithms.ppo import PPO
from proximo.control.models import policy
from proximo.control.models.networks import ActorCritic, Features
from proximo.control.models.noise import Noise
from proximo.control.models.normalizers import ObservationNormalizer
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces import actions
from proximo.control.spaces.actions import ActionSpec
from proximo.core import divergences, objectives, statistics
from proximo.core.distributions import Categorical, Gaussian, Product
from proximo.core.statistics import RunningMoments
from proximo.core.updates import update

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "elu": nn.ELU}
"""Those whose slopes are known by hand."""

_METHODS: dict[type, tuple[str, ...]] = {
    ControlPolicy: (
        "evaluate",
        "look",
        "act",
        "log_prob",
        "value",
        "distribution",
        "_normalized",
        "normalizers",
        "deviations",
    ),
    ActorCritic: ("step", "heads", "_own_value"),
    Features: ("features",),
    ActionSpec: ("distribution",),
    Noise: ("log_std", "bounds"),
    ObservationNormalizer: ("forward",),
    RunningMoments: ("scale", "variance"),
    Gaussian: ("__init__", "sample", "log_prob", "entropy"),
    Categorical: ("__init__", "probs", "sample", "log_prob", "entropy", "_over_allowed"),
    Product: ("__init__", "sample", "log_prob", "entropy", "_join", "_split"),
    nn.Sequential: ("forward",),
    nn.Linear: ("forward",),
    **{activation: ("forward",) for activation in ACTIVATIONS.values()},
    nn.Module: ("__call__", "_call_impl", "_wrapped_call_impl"),
    update.AutogradGradient: ("__init__", "__call__", "divergence"),
    PPO: ("loss", "gradient", "update"),
}
_NAMES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (objectives, ("ppo_loss", "clipped_surrogate", "value_loss", "weighted_mean", "kl_k3", "_counted")),
    (ppo, ("AutogradGradient", "objective_at")),
    (torch, ("tanh",)),
    (nn.functional, ("linear", "relu", "elu")),
    (statistics, ("weighted_mean",)),
    (divergences, ("kl_k3",)),
    (actions, ("Gaussian", "Categorical", "Product")),
    (policy, ("ControlPolicy",)),
)
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_GLOBAL_HOOKS = (
    "_global_forward_hooks",
    "_global_forward_pre_hooks",
    "_global_backward_hooks",
    "_global_backward_pre_hooks",
)


def _code() -> Iterator[tuple[str, object]]:
    """The functions and classes that take part, as they are now, with their names."""
    for owner, names in _METHODS.items():
        yield from ((name, getattr_static(owner, name)) for name in names)
    for module, names in _NAMES:
        yield from ((name, getattr(module, name)) for name in names)


def _is_original(name: str, found: object) -> bool:
    """Whether it is ours or torch's, and not what somebody has put in its place before this file was read."""
    if isinstance(found, property | staticmethod | classmethod):
        found = found.fget if isinstance(found, property) else found.__func__
    while found is not None:  # a decorator of torch's shows its own file, and whose function it calls
        called = getattr(found, "__name__", "")
        if called != name and (name, called) != ("__call__", "_wrapped_call_impl"):
            return False
        if isinstance(found, FunctionType) and not found.__code__.co_filename.startswith(_HOMES):
            return False
        if isinstance(found, type) and found.__module__.partition(".")[0] not in ("proximo", "torch"):
            return False
        found = getattr(found, "__wrapped__", None)
    return True


_HOMES = tuple(f"{folder}{os.sep}" for folder in (Path(objectives.__file__).parents[1], Path(torch.__file__).parent))
_READ = tuple(_code())
_ORIGINAL = all(_is_original(name, found) for name, found in _READ)


def _global_hooks() -> Iterator[object]:
    for name in _GLOBAL_HOOKS:
        yield from getattr(torch_module, name, {}).values()


def _overrides(policy: ControlPolicy) -> Iterator[object]:
    """Methods that hang on the object itself instead of its class."""
    for owner in (policy, policy.network, policy.actions):
        methods = _METHODS.get(type(owner), ())
        yield from ((name, vars(owner)[name]) for name in methods if name in vars(owner))


def _tensor_hooks(parameter: nn.Parameter) -> Iterator[object]:
    for name in ("_backward_hooks", "_post_accumulate_grad_hooks"):
        yield from (getattr(parameter, name, None) or {}).values()


def is_derivable(policy: ControlPolicy) -> bool:
    """Whether every class, method, module and function is the very one that the closed form was derived from."""
    return (
        _ORIGINAL
        and tuple(_code()) == _READ
        and type(policy) is ControlPolicy
        and type(policy.network) is ActorCritic
        and policy.network.encoders is None
        and (
            policy.network.sees is None or (type(policy.network.sees) is Features and not policy.network.sees.encoders)
        )
        and type(policy.actions) is ActionSpec
        and {type(n) for n in policy.normalizers.values()} <= {ObservationNormalizer}
        and not any(_overrides(policy))
        and not any(True for _ in _global_hooks())
        and all(map(_bare, policy.modules()))
        and all(p.requires_grad and type(p) is nn.Parameter and not any(_tensor_hooks(p)) for p in policy.parameters())
        and _plain_networks(policy)
    )


def _bare(module: nn.Module) -> bool:
    """No hook, and no forward of its own."""
    return "forward" not in vars(module) and not any(len(getattr(module, name)) for name in _HOOKS)


def _plain_networks(policy: ControlPolicy) -> bool:
    """Linear layers with an activation of the settings after each but the head, of the same widths in both networks."""
    network, activation = policy.network, ACTIVATIONS.get(policy.settings.activation)
    assert isinstance(network, ActorCritic)
    if activation is None or not all(type(net) is nn.Sequential for net in (network.actor, network.critic)):
        return False
    depth = len(network.actor) // 2
    actor, critic = (list(net.children())[::2] for net in (network.actor, network.critic))
    linear = [*actor, *critic, network.actor_head, network.value_head]
    return (
        _kinds(network.actor) == _kinds(network.critic) == [nn.Linear, activation] * depth
        and all(type(m) is nn.Linear and m.bias is not None for m in linear)
        and len({id(p) for m in linear for p in m.parameters()}) == 2 * len(linear)  # none is shared
        and [m.weight.shape for m in actor[1:]] == [m.weight.shape for m in critic[1:]]
        and [m.out_features for m in actor[:1]] == [m.out_features for m in critic[:1]]
        and all(m.alpha == 1.0 for m in policy.modules() if type(m) is nn.ELU)
    )


def _kinds(net: nn.Module) -> list[type]:
    return [type(module) for module in net.children()]
