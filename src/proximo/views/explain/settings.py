"""All settings of all runs, read from the classes that define them, and what the shipped presets make of each."""

import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any

from proximo.control import presets as control_presets
from proximo.control.config import TrainConfig
from proximo.core.settings import UpdateSettings
from proximo.language import stages
from proximo.runs.config.docs import field_docs
from proximo.runs.config.types import UNSET, expected
from proximo.runs.plugins import find_own
from proximo.views.explain.formulas import FORMULAS, Formula

CONTROL, REWARD = "train", "rlhf reward, judge"
STAGES = {"sft": "rlhf sft", "reward": REWARD, "judge": REWARD, "ppo": "rlhf ppo"}
"""The verb that takes a stage's settings; the judge's are the reward model's."""
PAPER = "paper"
TABLE = "a table of settings"


@dataclass(frozen=True)
class Place:
    """A setting of one verb."""

    verb: str
    kind: str
    """Type, in a user's words."""
    default: Any
    text: str
    """The docstring under the field."""


@dataclass(frozen=True)
class Use:
    """A value that a shipped preset gives to a setting."""

    preset: str
    """As `mujoco paper`, `mujoco tuned for HalfCheetah-v?` or `movie-sentiment, ppo`."""
    verb: str
    value: Any
    source: str
    """Where the preset's numbers come from."""
    paper: bool
    """Whether it is a preset of the paper's numbers."""


@dataclass
class Setting:
    """One setting, wherever it is one."""

    name: str
    """Dotted, as in config.toml."""
    places: list[Place] = field(default_factory=list)
    uses: list[Use] = field(default_factory=list)
    """Of the presets that name it, whether or not they change it."""

    @property
    def formula(self) -> Formula | None:
        """What it stands in, where that is a formula."""
        return FORMULAS.get(self.name)

    @property
    def paper(self) -> list[Use]:
        """Values of the presets of the paper's numbers."""
        return [use for use in self.uses if use.paper]

    @property
    def changed(self) -> list[Use]:
        """Other presets whose value is not the default of their verb, or of the algorithm that has the setting."""
        default = {place.verb: place.default for place in self.places}
        usual = self.places[0].default
        return [use for use in self.uses if not use.paper and use.value != default.get(use.verb, usual)]


@cache
def settings() -> Mapping[str, Setting]:
    """All of them by name. Imports the algorithms, and torch with them."""
    found: dict[str, Setting] = {}
    verbs = {CONTROL: TrainConfig, **{STAGES[stage]: config for stage, config in stages.CONFIGS.items()}}
    for verb, config in verbs.items():
        for name, place in _places(config(), verb):
            found.setdefault(name, Setting(name)).places.append(place)
    for name, place in _of_algorithms():
        found.setdefault(name, Setting(name)).places.append(place)
    for preset, verb, source, paper, table in _tables():
        for name, value in _leaves(table, found):
            found[name].uses.append(Use(preset, verb, value, source, paper))
    return found


def _places(config: Any, verb: str, before: str = "") -> Iterator[tuple[str, Place]]:
    """Every setting of a configuration, tables too."""
    cls = type(config)
    docs, hints = field_docs(cls), typing.get_type_hints(cls)
    for entry in fields(config):
        name, value = f"{before}{entry.name}", getattr(config, entry.name)
        if is_dataclass(value):
            yield name, Place(verb, TABLE, {}, (type(value).__doc__ or "").partition("\n")[0])
            yield from _places(value, verb, f"{name}.")
        else:
            yield name, Place(verb, expected(hints[entry.name]), value, docs.get(entry.name, ""))


def _of_algorithms() -> Iterator[tuple[str, Place]]:
    """Settings that algorithms add to PPO's, or give another default; and the choice among them."""
    words = ", ".join(UpdateSettings.shipped)
    chosen = f"What the policy is trained by: {words}, or `module:Name` of a class of your own."
    for verb in (CONTROL, STAGES["ppo"]):
        yield f"update.{UpdateSettings.chosen_by}", Place(verb, "a text in quotes", "ppo", chosen)
    usual = {entry.name: entry.default for entry in fields(UpdateSettings)}
    for algorithm, path in UpdateSettings.shipped.items():
        cls = find_own(path, UpdateSettings.chosen_by)
        for name, place in _places(cls(), f"--algorithm {algorithm}", "update."):
            own = name.removeprefix("update.")
            if own not in cls.lacks and (own not in usual or place.default != usual[own]):
                yield name, place


def _tables() -> Iterator[tuple[str, str, str, bool, Mapping[str, Any]]]:
    """What each shipped preset sets: name, verb, source, whether it is the paper's, and its table."""
    general: dict[tuple[str, str], Mapping[str, Any]] = {}
    for preset in control_presets.presets():
        name, table, key = f"{preset.family} {preset.name}", preset.settings, (preset.file, preset.name)
        if key in general:
            name, table = f"{name} for {', '.join(preset.environments)}", _different(table, general[key])
        general.setdefault(key, preset.settings)
        yield name, CONTROL, preset.source, preset.name == PAPER, table
    for of_stages in stages.presets():
        for stage, table in of_stages.stages.items():
            yield f"{of_stages.name}, {stage}", STAGES[stage], of_stages.source, False, table


def _different(table: Mapping[str, Any], from_: Mapping[str, Any]) -> dict[str, Any]:
    """What a task's table does not share with that of its family."""
    found = {}
    for key, value in table.items():
        other = from_.get(key)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            found[key] = _different(value, other)
        elif value != other:
            found[key] = value
    return found


def _leaves(table: Mapping[str, Any], known: Mapping[str, Setting], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{before}{key}"
        if isinstance(value, Mapping) and known[name].places[0].kind == TABLE:
            yield from _leaves(value, known, f"{name}.")
        else:
            yield name, tuple(value) if isinstance(value, list) else None if value == UNSET else value
