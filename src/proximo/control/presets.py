"""Presets: TOML files with numbers for a family of tasks, each naming its source. No torch here."""

import fnmatch
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from proximo.control.config import TrainConfig
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError, nearest
from proximo.foreign_options import CONTROL, answered_in_a_file
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.plugins import place_of

_NAMES = ("tuned", "paper", "robot", "games", "ppo-penalty", "trpo", "a2c", "reinforce")


@dataclass(frozen=True)
class Preset:
    """Numbers for some tasks."""

    name: str
    family: str
    environments: tuple[str, ...]
    """Patterns of task names, as in a shell."""
    source: str
    """Where the numbers come from."""
    settings: Mapping[str, Any]
    """What differs from the defaults, as TOML gives it."""
    file: str

    def matches(self, environment: str) -> bool:
        """Whether it is meant for this task."""
        return any(fnmatch.fnmatchcase(environment, pattern) for pattern in self.environments)

    def apply(self, base: TrainConfig, size: Mapping[str, int] = MappingProxyType({})) -> TrainConfig:
        """`base` with this preset's numbers.

        Args:
            base: the configuration so far.
            size: `environments` and `rollout_length` that were asked for: a preset that says how many minibatches a
                rollout has cuts this one.

        Raises:
            UserError: an unknown key or a wrong type, naming the nearest key and the file.
        """
        settings = {**self.settings, **size} if "minibatches" in self.settings else self.settings
        return from_mapping(TrainConfig, settings, where=f"preset {self.file} [{self.name}]", base=base)


def presets() -> list[Preset]:
    """All presets that are shipped, family by family, general ones before those of single tasks."""
    return list(_shipped())


@functools.cache
def _shipped() -> tuple[Preset, ...]:
    folder = resources.files("proximo.control") / "presets"
    files = sorted((Path(str(item)) for item in folder.iterdir()), key=lambda p: (p.stem != "general", p.stem))
    return tuple(preset for file in files if file.suffix == ".toml" for preset in read_presets(file))


def read_presets(file: Path) -> Iterator[Preset]:
    """The presets in one file: a table for each name, in it `tasks` with tables of what single tasks change.

    Raises:
        UserError: the file can not be read or is not such a file.
    """
    content = read_toml(file)
    family, patterns = content.pop("family", file.stem), content.pop("environments", ["*"])
    if not (isinstance(patterns, list) and all(isinstance(pattern, str) for pattern in patterns)):
        raise UserError(f"{file.name}: environments = {patterns!r} must be a list of names or patterns")
    for name, table in content.items():
        if not isinstance(table, dict):
            raise UserError(f"{file.name}: {name!r} must be a table such as [tuned], or one of: family, environments")
        tasks = table.pop("tasks", {})
        if not (isinstance(tasks, dict) and all(isinstance(changes, dict) for changes in tasks.values())):
            raise UserError(f"{file.name}: {name}.tasks must hold a table for each task, as [{name}.tasks.TASK]")
        source = table.pop("source", "")
        yield Preset(name, family, tuple(patterns), source, table, file.name)
        for pattern, changes in tasks.items():
            own = changes.pop("source", source)
            yield Preset(name, family, (pattern,), own, _merged(table, changes), file.name)


def configure(
    environment: str, preset: str, size: Mapping[str, int] = MappingProxyType({})
) -> tuple[TrainConfig, Preset]:
    """The configuration that a preset gives for a task: the last one that matches, the most special.

    Args:
        environment: name of the task.
        preset: tuned, paper, robot, games, an algorithm's name, or the path of a TOML file.
        size: `environments` and `rollout_length` where these were asked for, see `Preset.apply`.

    Raises:
        UserError: there is no such preset, or none for this task.
    """
    base = TrainConfig(environment=environment, preset=preset)
    if preset.endswith(".toml"):
        return _from_file(base, Path(preset), size)
    if preset not in _NAMES:
        raise UserError(
            f"there is no preset {preset!r}: did you mean {nearest(preset, _NAMES) or ' or '.join(_NAMES)}? "
            "`proximo presets` lists them; the path of a TOML file works too"
        )
    matching = [p for p in presets() if p.name == preset and p.matches(environment)]
    if not matching:
        raise UserError(f"preset {preset!r} has no numbers for {environment}; use tuned, or a TOML file of your own")
    return matching[-1].apply(base, size), matching[-1]


def usual_preset(algorithm: Any) -> str:
    """The preset where none is asked for: the one of the algorithm's name where it is one of ours, else tuned.

    Args:
        algorithm: a name, a class, an instance, or None.
    """
    if not isinstance(algorithm, str):
        cls = algorithm if isinstance(algorithm, type) else type(algorithm)
        algorithm = UpdateSettings.short_name(place_of(cls))
    return algorithm if algorithm in _NAMES else "tuned"


def _from_file(base: TrainConfig, file: Path, size: Mapping[str, int]) -> tuple[TrainConfig, Preset]:
    content = read_toml(file)
    named = content.get("environment", base.environment)
    if named != base.environment:
        raise UserError(f"preset {file} is for {named}, not for {base.environment}: take `environment` out of the file")
    source = str(content.pop("source", file.name))
    preset = Preset(str(file), "own", ("*",), source, content, file.name)
    content = {**content, **size} if "minibatches" in content else content
    with answered_in_a_file(CONTROL):
        return from_mapping(TrainConfig, content, where=f"preset {file}", base=base), preset


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged
