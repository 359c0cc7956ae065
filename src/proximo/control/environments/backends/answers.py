"""What one environment's `reset` and `step` answer: read as it is meant, or refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from proximo.control.environments.terms import terms_in
from proximo.control.spaces.masks import MaskReader

RAW_REWARD, TASK_REWARD, EPISODE_OVER = "proximo.raw_reward", "proximo.task_reward", "proximo.episode_over"
"""Keys of the infos under which travels what `Step` has under these names, where it is not what was learnt from."""
ACTION_MASK = "action_mask"
_KEPT = (RAW_REWARD, TASK_REWARD, EPISODE_OVER, ACTION_MASK)

_NEW = "return what gymnasium.Env says"
_OLD = "is of Gym before 0.26: port it to gymnasium, or wrap it with the package shimmy"


class WrongAnswerError(Exception):
    """What was returned, and what to do: the end of a sentence that begins with the environment."""


def old_signature(error: BaseException) -> WrongAnswerError | None:
    """What is wrong with a reset that takes no seed; None for another error."""
    found = re.search(r"reset\(\) got an unexpected keyword argument '(seed|options)'", str(error))
    if not isinstance(error, TypeError) or found is None:
        return None
    return WrongAnswerError(
        f"takes no {found[1]} in its reset, which {_OLD}, or write reset(self, *, seed=None, options=None)"
    )


def read_reset(answer: Any, masks: MaskReader) -> tuple[Any, dict[str, Any]]:
    """Observation and info.

    Raises:
        WrongAnswerError: it is no such pair.
    """
    if not (isinstance(answer, tuple | list) and len(answer) == 2 and _is_info(answer[1])):
        raise WrongAnswerError(f"returned {kind_of(answer)} where (observation, info) is due, which {_OLD}, or {_NEW}")
    observation, info = answer
    return observation, _read_info(info, masks)


def read_step(answer: Any, masks: MaskReader) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Observation, reward, terminated, truncated and info.

    Raises:
        WrongAnswerError: something of it is missing, or is not what it must be.
    """
    if (type(answer) is not tuple and not isinstance(answer, list)) or len(answer) != 5:
        old = isinstance(answer, tuple) and len(answer) == 4
        raise WrongAnswerError(
            f"returned {kind_of(answer)} where (observation, reward, terminated, truncated, info) is due, "
            f"{f'which {_OLD}, or ' if old else 'so '}{_NEW}"
        )
    observation, reward, terminated, truncated, info = answer
    if not _is_info(info):
        raise WrongAnswerError(f"returned {kind_of(info)} as its info: return a dict, which may be empty")
    ends = read_end("terminated", terminated), read_end("truncated", truncated)
    return observation, read_reward(reward), *ends, _read_info(info, masks)


def read_reward(reward: Any) -> float:
    """A reward as a number: of any type, an array or tensor of one entry too.

    Raises:
        WrongAnswerError: it is no single number.
    """
    if type(reward) is float:  # most are, and this is asked at every step
        return reward
    try:
        return float(_one(reward))
    except (TypeError, ValueError):
        raise WrongAnswerError(f"returned {kind_of(reward)} as its reward: return one number") from None


def read_end(name: str, end: Any) -> bool:
    """Whether an episode has ended, from a truth of any type, an array or tensor of one entry too.

    Raises:
        WrongAnswerError: it is no single truth.
    """
    if type(end) is bool:
        return end
    try:
        entry = _one(end)
    except (TypeError, ValueError):
        entry = None
    if entry is None or isinstance(entry, str | bytes) or entry != entry:  # the last one is NaN
        raise WrongAnswerError(f"returned {kind_of(end)} as {name}: return True or False")
    return bool(entry)


def _one(value: Any) -> Any:
    """The one entry of an array, a list or a tensor on any device; anything else as it is."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value).item() if hasattr(value, "__len__") and not isinstance(value, str) else value


def _is_info(info: Any) -> bool:
    return type(info) is dict or info is None or isinstance(info, Mapping)


def _read_info(info: Mapping[str, Any] | None, masks: MaskReader) -> dict[str, Any]:
    """What is used of it. The rest is the user's own: batching it would fail where it changes its shape or type."""
    if not info:
        return {}
    kept = {key: info[key] for key in _KEPT if info.get(key) is not None}
    kept |= dict(terms_in(info))
    if ACTION_MASK in kept:
        try:
            kept[ACTION_MASK] = masks.read(kept[ACTION_MASK])
        except ValueError as error:
            raise WrongAnswerError(f"returned in info['action_mask'] {error}") from None
    return kept


def kind_of(value: Any) -> str:
    """What something is, for a sentence."""
    if value is None:
        return "None"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}{'' if shape is None else f' of shape {tuple(shape)}'}"
