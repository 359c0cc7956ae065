"""What a user's own wrappers learn while they run (means and variances of observations and rewards), carried on.

Such are `NormalizeObservation` and `NormalizeReward` of Gymnasium, and whatever else holds an object with `mean`, `var`
and `count`. Their numbers belong to the policy: without them it sees other observations than those it was trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper

_FIELDS = ("mean", "var", "count")
_RUNNING = ("discounted_reward", "accumulated_reward")  # which NormalizeReward does not forget at a reset
_ALIKE = (  # attributes of a person's own running statistics: a mean, a spread, and how many or how fast
    re.compile(r"(^|_)(mean|means|mu|m|avg|average)($|_)", re.IGNORECASE),
    re.compile(r"(^|_)(var|variance|std|sigma|s|m2|s2|sq|squares|ssd)($|_)", re.IGNORECASE),
    re.compile(r"(^|_)(n|count|counter|num|steps|samples|seen|alpha|momentum|decay|rate)($|_)", re.IGNORECASE),
)
Statistics = Mapping[str, np.ndarray]
"""Float64 arrays by name; the leading axis is that of the copies, or 1 where one stands for all."""


def read(env: Any) -> dict[str, np.ndarray]:
    """The statistics of one environment and its wrappers, without an axis for copies; none in most."""
    return {f"{name}.{field}": _plain(getattr(holder, field)) for name, holder, field in _numbers(env)}


def write(env: Any, statistics: Statistics, copy: int, *, fixed: bool) -> None:
    """Gives an environment what `read` gave.

    Args:
        env: It and its wrappers.
        statistics: With an axis for copies.
        copy: Which of them this one is.
        fixed: Whether it learns no more from now on, where its wrappers can be told so.
    """
    for name, holder, field in _numbers(env):
        if (values := statistics.get(f"{name}.{field}")) is not None:
            _put(holder, field, values[copy if len(values) > 1 else 0])
    for layer in _layers(env) if fixed else ():
        if hasattr(type(layer), "update_running_mean"):
            layer.update_running_mean = False


def stacked(copies: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The statistics of several copies, with an axis for them."""
    return {name: np.stack([copy[name] for copy in copies]) for name in copies[0]}


def pooled(statistics: Statistics) -> dict[str, np.ndarray]:
    """The statistics of all that the copies have seen together, with an axis of 1 (Chan et al. 1979, eq. 2.1)."""
    together: dict[str, np.ndarray] = {}
    for name in sorted(name.removesuffix(".mean") for name in statistics if name.endswith(".mean")):
        mean, var, count = (statistics[f"{name}.{field}"] for field in _FIELDS)
        share = (count / count.sum(0)).reshape(len(count), *[1] * (mean.ndim - 1))
        whole = (share * mean).sum(0)
        spread = (share * (var + (mean - whole) ** 2)).sum(0)
        together |= {f"{name}.mean": whole[None], f"{name}.var": spread[None], f"{name}.count": count.sum(0)[None]}
    return together


def shared_out(together: Statistics, copies: int) -> dict[str, np.ndarray]:
    """What each of so many copies takes over, for `pooled` to give the same again."""
    return {name: x / copies if name.endswith(".count") else x for name, x in together.items()}


def notes(env: Any) -> tuple[str, ...]:
    """What a person has to know about what an environment learns of its observations: a sentence, or none."""
    classes = _that_learn(env)
    if not classes:
        return _not_carried(env)
    return (
        f"{' and '.join(classes)} in the environment {'learn' if classes[1:] else 'learns'} statistics that a loaded "
        "policy needs: they are saved with it and carried into evaluations, `policy.carry_into(env)` puts them into an "
        "environment of yours, and normalizers.observations = true in its place keeps them in the policy",
    )


def lost(env: Any) -> tuple[str, ...]:
    """The same of one that lies inside an object of the user's, where it can not be asked: a sentence, or none."""
    classes = _that_learn(env)
    if not classes:
        return ()
    return (
        f"{' and '.join(classes)} inside the environments that were given learns statistics, and these are not saved "
        "with the policy: give a function that makes one environment, or set normalizers.observations = true in its "
        "place",
    )


def _not_carried(env: Any) -> tuple[str, ...]:
    """Of a wrapper that seems to keep means, a spread and how many they are of, by names that are not `_FIELDS`."""
    for layer in _layers(env)[:-1]:
        numbers = [x for x, value in vars(layer).items() if isinstance(value, int | float | np.ndarray | np.number)]
        mean, spread, count = found = tuple(next(filter(kind.search, numbers), "") for kind in _ALIKE)
        if all(found) and found != _FIELDS and np.size(getattr(layer, mean)) > 1:
            return (
                f"{type(layer).__name__} in the environment holds {mean}, {spread} and {count}: if it learns them as "
                "it runs, they are not saved with the policy, and begin again in evaluations; set "
                "normalizers.observations = true in its place, or call them mean, var and count: those are saved and "
                "carried",
            )
    return ()


def _that_learn(env: Any) -> list[str]:
    """Classes that learn something of the observations."""
    learnt = ((name, np.size(_plain(moments.mean))) for name, moments in _moments(env))
    found = (name for name, size in learnt if size > 1 or "obs" in name.split(".")[2])
    return list(dict.fromkeys(name.split(".")[1] for name in found))


def _layers(env: Any) -> list[Any]:
    """An environment and what it wraps, from the outside in."""
    layers = [env]
    while isinstance(layers[-1], gymnasium.Wrapper | VectorWrapper):
        layers.append(layers[-1].env)
    return layers


def _moments(env: Any) -> Iterator[tuple[str, Any]]:
    """Every running mean by `DEPTH.CLASS.ATTRIBUTE`, the depth counted from the inside."""
    layers = _layers(env)[::-1]
    for depth, layer in enumerate(layers):
        place, held = f"{depth}.{type(layer).__name__}", getattr(layer, "__dict__", {})
        if all(field in held for field in _FIELDS) and _is_moments(layer):
            yield f"{place}.own", layer
        for attribute, value in held.items():
            name = f"{place}.{attribute.lstrip('_')}"
            if _is_moments(value) and not isinstance(value, gymnasium.Env | VectorEnv):  # the layer below is its own
                yield name, value
            within = dict(enumerate(value)) if isinstance(value, list | tuple) else value
            if isinstance(within, Mapping):
                yield from ((f"{name}.{key}", item) for key, item in within.items() if _is_moments(item))


def _numbers(env: Any) -> Iterator[tuple[str, Any, str]]:
    """Everything to carry: a name, and the attribute of an object that has it."""
    for name, moments in _moments(env):
        yield from ((name, moments, field) for field in _FIELDS)
    for depth, layer in enumerate(_layers(env)[::-1]):
        names = getattr(layer, "__dict__", {})
        yield from ((f"{depth}.{type(layer).__name__}", layer, name) for name in _RUNNING if name in names)


def _is_moments(value: Any) -> bool:
    if isinstance(value, type) or not all(hasattr(value, field) for field in _FIELDS):
        return False
    parts = [getattr(value, field) for field in _FIELDS]
    numbers = all(isinstance(part, int | float | np.ndarray | np.number) or hasattr(part, "detach") for part in parts)
    return numbers and np.size(_plain(parts[2])) == 1


def _plain(value: Any) -> np.ndarray:
    """A number, an array or a tensor as an array."""
    return np.array(value.detach().cpu() if hasattr(value, "detach") else value, np.float64)


def _put(moments: Any, field: str, value: np.ndarray) -> None:
    old = getattr(moments, field)
    with suppress(AttributeError):  # one that computes it from something else
        if hasattr(old, "new_tensor"):
            setattr(moments, field, old.new_tensor(value).reshape(old.shape))
        elif isinstance(old, np.ndarray):
            setattr(moments, field, np.array(value, old.dtype).reshape(old.shape))
        else:
            setattr(moments, field, type(old)(value))
