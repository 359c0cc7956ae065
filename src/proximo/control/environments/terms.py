"""Parts of a reward, and what an environment logs of itself: from its infos to one mean per rollout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from proximo.control.spaces.trees import is_tensor

TERM, LOG = "term/", "log/"
"""Metrics begin with it: parts of the reward, and the rest of an environment's log."""
_TERMS = ("reward_", "reward/")
_LOGS = ("log", "episode")
_NUMBERS = (int, float, np.number, np.bool_)
_NOT_LOGGED = frozenset("rlt")
"""Return, length and time of Gymnasium's RecordEpisodeStatistics, which are counted here anyway."""


def is_term(key: Any) -> bool:
    """Whether a key of an info, which need be no text, holds a part of that step's reward, as `reward_forward`."""
    return isinstance(key, str) and key.startswith(_TERMS) and len(key) > len("reward_")


def terms_in(info: Any) -> Iterator[tuple[str, Any]]:
    """Parts of the reward in one environment's info, by key; what is no number is none."""
    for key, x in info.items() if isinstance(info, Mapping) else ():
        if is_term(key) and isinstance(x, _NUMBERS):
            yield key, x


def from_infos(infos: Mapping[str, Any], count: int) -> dict[str, Any]:
    """What one step's infos say, by metric: parts of the reward `[count]`, NaN where none is told; logs as they are.

    Args:
        infos: of a batch, as Gymnasium has them (`reward_*`, their masks `_reward_*`, `final_info`, `episode`), or the
            `extras` of rsl_rl's environments (`log` or `episode`, a dict of numbers).
        count: environments.
    """
    found: dict[str, Any] = {}
    for source in (infos, infos.get("final_info")):
        if not isinstance(source, Mapping):
            continue
        for key in filter(is_term, source):
            if (row := _row(source[key], source.get(f"_{key}"), count)) is not None:
                name = TERM + key[len("reward_") :]
                # Of tensors those of the step that ended an episode are told in whole, and stay on their device.
                alone = name not in found or is_tensor(row)
                found[name] = row if alone else np.where(np.isnan(row), found[name], row)
    for key in _LOGS:
        if isinstance(log := infos.get(key), Mapping):
            return found | dict(_logged(log))
    return found


def _row(values: Any, told: Any, count: int) -> Any:
    """One number for each environment; None where it is something else."""
    if is_tensor(values):
        return values.detach() if tuple(values.shape) == (count,) else None
    row = np.asarray(values)
    if row.shape != (count,) or row.dtype.kind not in "biuf":
        return None
    return row if told is None else np.where(told, row, np.nan)


def _logged(log: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in log.items():
        name = key.strip("/") if isinstance(key, str) else ""
        if not name or key.startswith("_") or key in _NOT_LOGGED:
            continue
        # `Episode_Reward/tracking` of Isaac Lab, `rew_tracking` of legged_gym and Genesis.
        rewards = name.lower().startswith(("rew", "episode_reward"))
        yield (TERM if rewards else LOG) + name, value


class Means:
    """Means of what the steps of a rollout said. Tensors stay where they are until all of it is read."""

    def __init__(self) -> None:
        self._said: dict[str, list[tuple[int, Any]]] = {}

    def add(self, step: int, said: Mapping[str, Any]) -> None:
        """Take in what one step said."""
        for name, value in said.items():
            # A simulator may write the next step's number into the same tensor.
            kept = value.detach().clone() if is_tensor(value) else value
            self._said.setdefault(name, []).append((step, kept))

    def read(self, valid: np.ndarray) -> dict[str, float]:
        """By metric, over the steps and rows that said something; then nothing is kept.

        Args:
            valid: bool `[T, N]`; rows that only report a reset do not count.
        """
        said, self._said = self._said, {}
        means = {name: _mean(values, valid) for name, values in said.items()}
        return {name: mean for name, mean in means.items() if mean is not None}


def _mean(said: Iterable[tuple[int, Any]], valid: np.ndarray) -> float | None:
    """Of all that was told, an infinity too; None where nothing was."""
    numbers = [x for step, value in said if len(x := _numbers(value, valid[step]))]
    known = np.concatenate(numbers) if numbers else np.empty(0)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def _numbers(value: Any, valid: np.ndarray) -> np.ndarray:
    """As float64 `[n]`, without rows that are not valid; empty for what is no number."""
    if is_tensor(value):
        value = value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":
        return np.empty(0)
    return np.atleast_1d(array[valid] if array.shape == valid.shape else array).reshape(-1).astype(np.float64)
