"""Several settings switched on and off in one design, so that every run says something of each."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from proximo.control.config import TrainConfig
from proximo.core.schedules import Schedule
from proximo.errors import UserError

LEVELS: Mapping[str, tuple[Any, Any]] = {
    "update.value_clip": (None, 0.2),
    "update.recompute_advantages": (False, True),
    "update.normalize_advantages": ("off", "batch"),
    "update.max_grad_norm": (None, 0.5),
    "update.target_kl": (None, 0.03),
    "update.entropy_coefficient": (0.0, 0.01),
    "update.dual_clip": (None, 3.0),
    "network.orthogonal": (False, True),
    "normalizers.observations": (False, True),
    "normalizers.rewards": ("off", "scale"),
    "adam_epsilon": (1e-8, 1e-5),
    "learning_rate": ("constant", "to 0"),
}
"""Settings by their path in `config.toml`, each without and with. The learning rate starts where the preset's does."""
MOST = 7
"""Details of one design, beside its control: 16 runs for each seed."""


def short(setting: str) -> str:
    """The last word of a setting's path."""
    return setting.rpartition(".")[2]


def found(details: Sequence[str]) -> tuple[str, ...]:
    """Settings by their paths, from these or from their last words.

    Raises:
        UserError: there is no such setting, one stands twice, or they are none or too many.
    """
    names = {name: setting for setting in LEVELS for name in (setting, short(setting))}
    for detail in details:
        if detail not in names:
            raise UserError(f"there is no detail {detail!r}: there are {', '.join(map(short, LEVELS))}")
    settings = tuple(names[detail] for detail in details)
    if not 1 <= len(settings) <= MOST or len(set(settings)) < len(settings):
        raise UserError(
            f"--details takes 1 to {MOST} different settings, not {', '.join(map(short, settings)) or 'none'}"
        )
    return settings


def changed(config: TrainConfig, setting: str, level: int) -> TrainConfig:
    """The configuration with one of `LEVELS`, 0 for without and 1 for with."""
    value = LEVELS[setting][level]
    if setting == "learning_rate":
        first = Schedule.parse(config.learning_rate).at(0.0)
        value = f"{first!r} -> 0" if level else first
    part, _, name = setting.rpartition(".")
    if not part:
        return replace(config, **{name: value})
    return replace(config, **{part: replace(getattr(config, part), **{name: value})})


def design(factors: Sequence[str]) -> dict[str, dict[str, int]]:
    """A two-level design of resolution IV (Box, Hunter & Hunter 2005, chapter 6).

    Every factor is on in half of the runs, each two of them are both on in a quarter, and the effect of one (the mean
    with it less the mean without) is free of what any two others do together. With k factors it has the least power of
    two that is 2 k or more runs; up to three factors that is all combinations, or twice as many as are needed.

    Returns:
        For each run, by a name that says it all, the level (0 or 1) of each factor.
    """
    runs: dict[str, dict[str, int]] = {}
    for bits in product((0, 1), repeat=_base(len(factors))):
        levels = dict(zip(factors, _columns(bits), strict=False))
        runs[" ".join(f"{short(name)}{'+' if level else '-'}" for name, level in levels.items())] = levels
    return runs


def _base(factors: int) -> int:
    """Of how many factors all combinations are run; the others follow from these."""
    base = 1
    while 2 ** (base - 1) < factors:
        base += 1
    return base


def _columns(bits: Sequence[int]) -> Iterator[int]:
    """The exclusive or of every odd number of bits, single ones first."""
    words = [word for word in product((0, 1), repeat=len(bits)) if sum(word) % 2]
    for word in sorted(words, key=lambda word: (sum(word), [-x for x in word])):
        yield sum(bit * used for bit, used in zip(bits, word, strict=True)) % 2
