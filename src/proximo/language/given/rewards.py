"""Rewards as they are given from Python, each by a name that `config.toml` can hold."""

import os
import sys
from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from os import PathLike
from pathlib import Path
from types import FunctionType
from typing import Any

import torch

from proximo.errors import UserError
from proximo.runs.plugins import place_of
from proximo.runs.storage.module_sources import own_source

Function = Callable[..., Any]
"""See `proximo.language.rewards.terms.RewardFunction`."""

Own = Mapping[str, Function]
"""By their names in `config.rewards`, the functions that were given from Python."""

Given = str | PathLike[str] | Function
"""A folder, a run, a hub name, `module:function`, or a function."""


def named(rewards: Given | list[Given] | tuple[Given, ...] | Mapping[Given, float]) -> tuple[dict[str, float], Own]:
    """Weights by name, as `config.rewards` has them, and what the names of functions stand for.

    Args:
        rewards: one, several, or several with their weights.

    Raises:
        UserError: there is none, one is of no known kind, or a name stands twice.
    """
    if isinstance(rewards, Mapping):
        given = [(reward, _weight(reward, weight)) for reward, weight in rewards.items()]
    else:
        given = [(reward, 1.0) for reward in (rewards if isinstance(rewards, list | tuple) else [rewards])]
    if not given:
        raise UserError("PPO needs a reward: give rewards=[function] or rewards=['runs/x/reward']")
    weights: dict[str, float] = {}
    own: dict[str, Any] = {}
    for reward, weight in given:
        name = os.fspath(reward) if isinstance(reward, str | PathLike) else _free(_name(reward), weights)
        if name in weights:
            raise UserError(f"reward {name} is given twice: give it once, with a weight as rewards={{{name!r}: 2.0}}")
        if not isinstance(reward, str | PathLike):
            own[name] = reward
        weights[name] = weight
    return weights, own


def named_judge(judge: Function, own: Own) -> tuple[str, Own]:
    """The name of a function that judges, and `own` with it.

    Raises:
        UserError: it is one of the rewards, or no function.
    """
    if judge in own.values():
        raise UserError("the judge is one of the rewards: what is optimised can not judge")
    name = _free(_name(judge), dict.fromkeys(own, 0.0))
    return name, {**own, name: judge}


def folder_of(own: Own) -> str:
    """The folder of the module of the first function that is in one, where later calls find it; "" if none is.

    A library's functions are found without it.
    """
    for function in own.values():
        name = str(getattr(function, "__module__", ""))
        module = sys.modules.get(name)
        file = getattr(module, "__file__", None)
        if file and module and own_source(name) is not None and _within(module, function):
            path = Path(file).resolve()
            package = path.parent if path.stem == "__init__" else path
            imported_as = place_of(function).partition(":")[0]
            return str(package.parents[imported_as.count(".")])
    return ""


def _weight(reward: Any, weight: Any) -> Any:
    """A weight as a plain number where it is one, of NumPy too.

    Raises:
        UserError: a function stands in its place.
    """
    if callable(weight):
        raise UserError(
            f"the weight of reward {reward!r} is a function: functions are the keys and weights the values, as "
            "rewards={f: 1.0}"
        )
    return float(weight) if isinstance(weight, Real) and not isinstance(weight, bool) else weight


def _within(module: Any, function: Any) -> bool:
    return getattr(module, getattr(function, "__qualname__", "?"), None) is function


def _name(reward: Any) -> str:
    """`module:function` as it would be given on the command line; `module:<name>` of what could not be."""
    if isinstance(reward, torch.nn.Module):
        raise UserError(
            f"a reward can not be a {type(reward).__name__} object: give the folder of a reward model that was saved "
            "with its tokenizer, or a function f(prompts, responses) that asks it"
        )
    if isinstance(reward, tuple):
        raise UserError("a reward is a function, a folder or module:function: give weights as rewards={f: 0.5}")
    term = hasattr(reward, "weight") and hasattr(reward, "name")  # which is called otherwise than a function
    if isinstance(reward, type) or term or not callable(reward):
        kind = reward.__name__ if isinstance(reward, type) else type(reward).__name__
        raise UserError(f"a reward is a function, a folder or module:function, and not a {kind}")
    if isinstance(reward, FunctionType):
        return place_of(reward)
    # No module holds an object, or a function with some of its arguments: in brackets, as Python writes <lambda>.
    of = reward.func if isinstance(reward, partial) else reward
    of = of if hasattr(of, "__qualname__") else type(of)
    return f"{of.__module__}:<{of.__name__}>"


def _free(name: str, taken: Mapping[str, float]) -> str:
    """The name, numbered if another has it."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
