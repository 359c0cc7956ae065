"""The stages of RLHF and their presets: which settings a stage gets. No torch here."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from proximo.language.configuration import RewardConfig, SFTConfig
from proximo.language.ppo_configuration import PPOConfig
from proximo.runs.configuration import from_mapping, read_toml
from proximo.runs.errors import UserError, nearest

CONFIGS: dict[str, type] = {"sft": SFTConfig, "reward": RewardConfig, "judge": RewardConfig, "ppo": PPOConfig}
BUILT_IN = "movie-sentiment/"  # paths that start so are fetched with pip and kept in the cache


@dataclass(frozen=True)
class Preset:
    """Settings of all stages for one task."""

    name: str
    about: str
    source: str
    """Where the numbers come from."""
    stages: Mapping[str, Mapping[str, Any]]
    file: Path


def presets() -> list[Preset]:
    """All presets that are shipped."""
    folder = Path(str(resources.files("proximo.language") / "presets"))
    return [read_preset(file) for file in sorted(folder.glob("*.toml"))]


def read_preset(file: Path) -> Preset:
    """The preset in a TOML file: `about`, `source`, and a table for each stage.

    Raises:
        UserError: it can not be read, or has a table that is no stage.
    """
    content = read_toml(file)
    about, source = str(content.pop("about", "")), str(content.pop("source", file.name))
    for name, table in content.items():
        if name not in CONFIGS or not isinstance(table, dict):
            raise UserError(f"preset {file}: {name!r} is no stage: tables are {', '.join(f'[{x}]' for x in CONFIGS)}")
    return Preset(file.stem, about, source, content, file)


def find_preset(name: str) -> Preset:
    """A shipped preset by its name, or one's own by the path of its file.

    Raises:
        UserError: there is none.
    """
    if name.endswith(".toml"):
        return read_preset(Path(name))
    known = {p.name: p for p in presets()}
    if name not in known:
        raise UserError(
            f"there is no preset {name!r}: did you mean {nearest(name, known) or ', '.join(known)}? "
            "The path of a TOML file works too"
        )
    return known[name]


def configure(stage: str, preset: str, run: str) -> Any:
    """The settings that a stage starts from: the preset, then what the run's earlier stages made where it names none.

    Args:
        stage: sft, reward, judge or ppo.
        preset: a name, the path of a TOML file, or "" for none.
        run: folder of all stages, or "".

    Raises:
        UserError: there is no such preset, or it does not fit.
    """
    config = CONFIGS[stage]()
    if preset:
        found = find_preset(preset)
        config = from_mapping(
            CONFIGS[stage], found.stages.get(stage, {}), where=f"preset {preset} [{stage}]", base=config
        )
        if stage == "ppo":
            config = replace(config, preset=preset)
    if run and stage in ("reward", "judge") and (Path(run) / "sft" / "config.json").exists():
        tuned = str(Path(run) / "sft")
        # The scores are to have mean 0 and variance 1 on what PPO starts from.
        policy = config.policy or (tuned if config.standardise_on else "")
        config = replace(config, model=config.model or ("" if stage == "judge" else tuned), policy=policy)
    if run and stage == "ppo":
        policy, reward = Path(run) / "sft", Path(run) / "reward"
        if (policy / "config.json").exists() and not config.policy:
            config = replace(config, policy=str(policy))
        if (reward / "config.json").exists() and not config.rewards:
            config = replace(config, rewards={str(reward): 1.0})
    return config


def located(config: Any) -> Any:
    """The same settings with the names of built-in data as files, fetched where they are not there yet.

    Raises:
        UserError: they can not be fetched.
    """
    changes = {
        f.name: built_in_file(value)
        for f in fields(config)
        if isinstance(value := getattr(config, f.name), str) and value.startswith(BUILT_IN)
    }
    return replace(config, **changes) if changes else config


def built_in_file(name: str) -> str:
    """A file of the built-in data by its name `movie-sentiment/...`; any other name as it is.

    Raises:
        UserError: there is no such file, or it can not be fetched.
    """
    if not name.startswith(BUILT_IN):
        return name
    from proximo.language.movies import movie_folder

    file = movie_folder() / name.removeprefix(BUILT_IN)
    if not file.exists():
        there = ", ".join(sorted(p.name for p in movie_folder().iterdir()))
        raise UserError(f"{name} is not in the built-in data: choose one of {there}")
    return str(file)


def is_built_in(file: str) -> bool:
    """Whether a file is of the built-in data set."""
    from proximo.language.downloads import cache_folder

    return Path(file).is_relative_to(cache_folder())
