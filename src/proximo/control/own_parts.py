"""Networks, encoders and algorithms of the user's own, given from Python: by what names a run stores them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from proximo.algorithms.given import own_algorithm, with_algorithm
from proximo.control.config import NetworkSettings, TrainConfig
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.runs.plugins import find_own, name_of_own

Maker = str | Callable[..., nn.Module]
"""A class or function that makes a module, or its `module:Name`."""

_PLAIN = (bool, int, float, str)


def with_own_parts(
    settings: Mapping[str, Any],
    algorithm: str | UpdateSettings | type[UpdateSettings] | None,
    network: Maker | NetworkSettings | Mapping[str, Any] | None,
    encoders: Mapping[str, Maker] | None,
) -> dict[str, Any]:
    """Settings with what was given beside them, by name.

    Args:
        settings: of `proximo.train`.
        algorithm: an instance is taken with all of its settings, of a class those of the preset and of `update`.
        network: settings of our networks, or what makes one of the user's own.
        encoders: by key of a Dict observation.

    Raises:
        UserError: something that has no name to be found by, or can not be stored.
    """
    settings = dict(settings)
    if network is not None:
        settings["network"] = _network(network)
    if encoders:
        named = {key: name_of_own(maker, f"encoder of {key!r}") for key, maker in encoders.items()}
        inner = settings.get("network", {})
        if not isinstance(inner, Mapping):
            raise UserError("give encoders within network, or network as a dict")
        settings["network"] = {**inner, "encoders": named}
    symmetry = settings.get("symmetry")
    if isinstance(symmetry, Mapping) and callable(symmetry.get("function")):
        settings["symmetry"] = {**symmetry, "function": name_of_own(symmetry["function"], "symmetry")}
    return with_algorithm(settings, algorithm)


_ROLES = {"actor": "actor", "policy": "actor", "critic": "critic", "rnd_state": "rnd"}
"""Sets of observation groups in rsl_rl's configuration (`policy` until its version 4), and ours."""
_KNOWN = "actor (or policy), critic and rnd_state"
_TAUGHT = {"student": "student", "policy": "student", "actor": "student", "critic": "critic", "teacher": "teacher"}
"""The same of a distillation's."""


def with_groups(settings: Mapping[str, Any], *, taught: bool = False) -> dict[str, Any]:
    """Settings with rsl_rl's `obs_groups` as `observations`: `{"actor": ["policy"], "critic": ["policy", "state"]}`.

    Args:
        settings: given from Python.
        taught: of a distillation.

    Raises:
        UserError: it names another set, or is given beside `observations`.
    """
    settings = dict(settings)
    groups = settings.pop("obs_groups", None)
    if groups is None:
        return settings
    if not isinstance(groups, Mapping) or "observations" in settings:
        raise UserError("obs_groups is rsl_rl's dict of names by role and takes the place of observations: give one")
    roles, known = (_TAUGHT, "student (or policy), teacher and critic") if taught else (_ROLES, _KNOWN)
    if other := sorted(groups.keys() - roles.keys()):
        raise UserError(f"obs_groups names the sets {', '.join(other)}, and here are {known}")
    names = [roles[name] for name in groups]
    if twice := next((name for name in names if names.count(name) > 1), ""):
        same = " and ".join(name for name in groups if roles[name] == twice)
        raise UserError(f"obs_groups names the sets {same}, which are one here: give one of them")
    return settings | {"observations": {roles[name]: tuple(keys) for name, keys in groups.items()}}


def require_one_size(minibatches: Any, update: Any) -> None:
    """Refuse minibatches that are given by their number and by their size.

    Args:
        minibatches: their number; None if it is not given.
        update: settings of the update that are given, by name.

    Raises:
        UserError: both are.
    """
    if minibatches is not None and isinstance(update, Mapping) and update.get("minibatch_size") is not None:
        raise UserError(
            f"minibatches = {minibatches} and update.minibatch_size = {update['minibatch_size']} say the same: "
            "give one of them"
        )


def require_one_name(given: Any) -> None:
    """Refuse a student whose parts are named twice.

    Args:
        given: for `observations` of a distillation.

    Raises:
        UserError: `student` and `actor` are both given, which are one.
    """
    if isinstance(given, Mapping) and given.get("student") and given.get("actor"):
        raise UserError("observations.student and observations.actor say the same in a distillation: give one of them")


def _network(given: Any) -> Any:
    if isinstance(given, Mapping | NetworkSettings):
        return given
    if isinstance(given, nn.Module):
        raise UserError(
            f"network is a {type(given).__name__} that is made already, and a run makes its own: give the class "
            f"(network={type(given).__name__}), or functools.partial of it with arguments"
        )
    if isinstance(given, list | tuple):
        raise UserError(f"network = {list(given)}: widths of the hidden layers are network={{'hidden': {list(given)}}}")
    arguments: dict[str, Any] = {}
    if isinstance(given, functools.partial):
        if given.args or not all(isinstance(x, _PLAIN) for x in given.keywords.values()):
            raise UserError("network: arguments of a partial are stored by name: numbers, texts, True and False")
        given, arguments = given.func, dict(given.keywords)
    return {"custom": name_of_own(given, "network"), "arguments": arguments}


def own_code(config: TrainConfig) -> dict[str, Any]:
    """What of the user's own a run consists of beside its environment, for its identity.

    Raises:
        UserError: it can not be found.
    """
    network, parts = config.network, dict[str, Any]()
    if network.custom:
        parts["network"] = find_own(network.custom, "network")
    for key, path in network.encoders.items():
        parts[f"encoder of {key}"] = find_own(path, "encoder")
    if config.symmetry.function:
        parts["symmetry"] = find_own(config.symmetry.function, "symmetry")
    return parts | own_algorithm(config.update)
