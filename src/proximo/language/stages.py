"""The stages of RLHF and their presets: which settings a stage gets. No torch here."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from importlib import resources
from os import PathLike
from pathlib import Path
from typing import Any

from proximo.errors import UserError, nearest
from proximo.foreign_options import LANGUAGE, answered_in_a_file, answered_in_python
from proximo.language.config import BUILTIN, RewardConfig, SFTConfig
from proximo.language.data.files import is_hub_name
from proximo.language.ppo_config import PPOConfig
from proximo.runs.config.toml import from_mapping, read_toml

CONFIGS: dict[str, type] = {"sft": SFTConfig, "reward": RewardConfig, "judge": RewardConfig, "ppo": PPOConfig}
JUDGE = "proximo_judge.json"
"""File that makes a folder a judge's."""
BUILT_IN = "movie-sentiment/"  # paths that start so are fetched with pip and kept in the cache
_MODELS = ("model", "policy", "judge")
_FIRST = "the first argument"
_ARGUMENTS = {"policy": _FIRST, "model": _FIRST, "output": "run=", "data": "pairs="}
"""What settings are called in the functions of `proximo.language`, where that is another name."""
_PORT = re.compile(r":\d+([/?#]|$)")
_DATA = ("data", "validation", "standardise_on", "prompts", "held_out", "held_out_pairs")


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
        table = _table(find_preset(preset), stage)
        with answered_in_a_file(LANGUAGE[stage]):
            config = from_mapping(CONFIGS[stage], table, where=f"preset {preset} [{stage}]", base=config)
        if stage == "ppo":
            config = replace(config, preset=preset)
    if run and stage in ("reward", "judge") and (Path(run) / "sft" / "config.json").exists():
        tuned = str(Path(run) / "sft")
        model = config.model or ("" if stage == "judge" else tuned)
        config = replace(config, model=model, policy=config.policy or tuned)
    if run and stage == "ppo":
        policy, reward = Path(run) / "sft", Path(run) / "reward"
        if (policy / "config.json").exists() and not config.policy:
            config = replace(config, policy=str(policy))
        if (reward / "config.json").exists() and not config.rewards:
            config = replace(config, rewards={str(reward): 1.0})
        config = config if config.judge else replace(config, judge=_judge_of(Path(run)))
    return config


def _judge_of(run: Path) -> str:
    """The judge of a PPO run that is there, or of a new one that which is beside it; "" if nobody judges."""
    begun, beside = run / "ppo" / "config.toml", run / "judge"
    if begun.is_file():  # a judge that was made since changes nothing
        return str(read_toml(begun).get("judge", ""))
    return str(beside) if (beside / JUDGE).exists() else ""


def folder_of_run(run: Any) -> str:
    """The folder that a run is given from Python, "" where none is.

    Raises:
        UserError: it is no path.
    """
    if run is not None and not isinstance(run, str | PathLike):
        raise UserError(f"run = {run!r} must be the path of a folder")
    return os.fspath(run or "")


def asked_for(base: Any, function: str, settings: Mapping[str, Any], named: Mapping[str, Any]) -> Any:
    """A stage's settings as a function of `proximo.language` is called.

    Args:
        base: what the others are, see `configure`.
        function: its name.
        settings: given by their names.
        named: settings that the function has arguments of its own for.

    Raises:
        UserError: there is no such setting (it names the nearest), or one can not mean anything.
    """
    where = f"the arguments of proximo.language.{function}"
    foreign = LANGUAGE[function.removeprefix("train_") if function.startswith("train_") else "ppo"]
    if answer := answered_in_python(settings, foreign, [field.name for field in fields(base)]):
        raise UserError(answer)
    for name in settings.keys() & named.keys():
        raise UserError(f"{name} is no setting in {where}: it is {_ARGUMENTS.get(name, name + '=')}")
    plain = {name: os.fspath(x) if isinstance(x, PathLike) else x for name, x in settings.items()}
    return from_mapping(type(base), {**plain, **named}, where=where, base=base)


def check_files(preset: str, run: str) -> None:
    """Look whether the data that a preset names are there, before any of its stages takes its time.

    Args:
        preset: name, or path of a TOML file.
        run: folder of all stages, whose finished stages need no data; "" checks all stages.

    Raises:
        UserError: names stage, setting and file.
    """
    for stage, table in find_preset(preset).stages.items():
        if run and (Path(run) / stage / "results.json").exists():
            continue
        for name in _DATA:
            file = built_in_file(str(table.get(name, "")))
            if file and not os.path.exists(file) and not is_hub_name(file):
                where = f"preset {preset} [{stage}]"
                raise UserError(f"{where}: {name} = {file} is not there: paths count from {os.getcwd()}")


def _table(preset: Preset, stage: str) -> Mapping[str, Any]:
    """A stage's settings. Reward models and judges are standardised on samples like PPO's if they name no others."""
    table, ppo = preset.stages.get(stage, {}), preset.stages.get("ppo", {})
    if stage not in ("reward", "judge"):
        return table
    own = {name: ppo[name] for name in ("prompt_limit", "response_limit", "temperature") if name in ppo}
    return own | ({"standardise_on": ppo["prompts"]} if "prompts" in ppo else {}) | dict(table)


def located(config: Any) -> Any:
    """The same settings as they hold from every folder: whatever is here by its absolute path, built-in data fetched.

    Hub names, `builtin:...`, `module:function` and what does not exist stay as they are; `modules` is where such a
    module is.

    Raises:
        UserError: built-in data can not be fetched, or two rewards are one folder.
    """
    return _respelled(config, _absolute)


def resolved(config: Any) -> Any:
    """The same settings with one spelling for each file and folder: two that name the same ones are equal.

    Raises:
        UserError: see `located`.
    """
    return _respelled(config, os.path.realpath)


def _respelled(config: Any, spell: Callable[[str], str]) -> Any:
    changes: dict[str, Any] = {}
    for field in fields(config):
        name, value = field.name, getattr(config, field.name)
        if name in _DATA:
            file = built_in_file(value)
            changes[name] = spell(file) if os.path.exists(file) else file
        elif name in _MODELS:
            changes[name] = spell(value) if _is_folder(value) else value
        elif name == "rewards":
            changes[name] = _respelled_rewards(value, spell)
        elif name == "modules":
            folder = value or _folder_of_modules([*config.rewards, config.judge])
            changes[name] = spell(folder) if folder else ""
    return replace(config, **changes)


def _respelled_rewards(rewards: Mapping[str, float], spell: Callable[[str], str]) -> dict[str, float]:
    names = {name: _respelled_reward(name, spell) for name in rewards}
    if len(set(names.values())) < len(names):
        raise UserError(f"two of the rewards {', '.join(rewards)} are the same folder: name it once")
    return {names[name]: weight for name, weight in rewards.items()}


def _respelled_reward(name: str, spell: Callable[[str], str]) -> str:
    """The same reward by the folder's one spelling, with the label that may stand behind it."""
    folder, label = without_label(name)
    return spell(folder) + (f"@{label}" if label else "") if _is_folder(folder) else name


def without_label(name: str) -> tuple[str, str]:
    """The folder or hub name of a reward model, and the label behind its last @; "" where there is none."""
    place, mark, label = name.rpartition("@")
    return (place, label) if mark and place and not os.path.exists(name) else (name, "")


def is_function(reward: str) -> bool:
    """Whether a reward's name is `module:function` rather than a folder's or a hub's.

    Raises:
        UserError: it is an address.
    """
    there = os.path.exists(without_label(reward)[0])
    if "://" in reward or (_PORT.search(reward) and not there):
        raise UserError(
            f"reward {reward} is an address: rewards are folders of models and functions as module:function; call a "
            "server from a function of your own"
        )
    return ":" in reward and not there


def _folder_of_modules(rewards: Iterable[str]) -> str:
    """The current folder if it holds a module that a reward names, or else ""."""
    modules = (name.partition(":")[0].partition(".")[0] for name in rewards if is_function(name))
    return os.getcwd() if any(os.path.exists(f"{m}.py") or os.path.isdir(m) for m in modules) else ""


def _is_folder(name: str) -> bool:
    return not name.startswith(BUILTIN) and os.path.isdir(name)


def _absolute(name: str) -> str:
    path = Path(name)
    if path.is_absolute():
        return name
    # The last part stays even where it is a link: the name of a link may say of what kind its file is.
    return str(path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name)


def built_in_file(name: str) -> str:
    """A file of the built-in data by its name `movie-sentiment/...`; any other name as it is.

    Raises:
        UserError: there is no such file, or it can not be fetched.
    """
    if not name.startswith(BUILT_IN):
        return name
    from proximo.language.demo.movies import movie_folder

    file = movie_folder() / name.removeprefix(BUILT_IN)
    if not file.exists():
        there = ", ".join(sorted(p.name for p in movie_folder().iterdir()))
        raise UserError(f"{name} is not in the built-in data: choose one of {there}")
    return str(file)


def is_built_in(file: str) -> bool:
    """Whether a file is of the built-in data set."""
    from proximo.language.demo.downloads import cache_folder

    return Path(file).resolve().is_relative_to(cache_folder().resolve())
