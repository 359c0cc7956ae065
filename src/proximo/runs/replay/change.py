"""One setting of an update changed: `KEY=VALUE` as a person writes it."""

import tomllib
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

from proximo.errors import UserError, nearest
from proximo.runs.config.toml import from_mapping

Config = TypeVar("Config")


def settable(config: Any, without: Sequence[str] = ()) -> list[str]:
    """Dotted names of the settings that enter the update of a run, in either world.

    Args:
        config: of the run, with `update`, `learning_rate`, `gamma` and `lam`.
        without: fields of `update` that this run's world does not have.
    """
    update = [
        f"update.{field.name}" for field in fields(config.update) if field.name not in (*without, *config.update.lacks)
    ]
    # Where the learning rate is steered by the KL, the schedule has no say.
    return [*update, *(["learning_rate"] if config.update.adaptive_kl is None else []), "gamma", "lam"]


def changed(config: Config, assignment: str, names: Sequence[str]) -> Config:
    """The configuration with one setting changed.

    Args:
        config: of the run.
        assignment: `KEY=VALUE`; the key may be the last part of a name alone.
        names: dotted names that may be set.

    Raises:
        UserError: it is none of these, or the value does not fit.
    """
    key, equals, value = (part.strip() for part in assignment.partition("="))
    if not equals or not key or not value:
        raise UserError(f"--set {assignment} is no KEY=VALUE: write it as --set target_kl=0.03")
    short = {name.rpartition(".")[2]: name for name in names} | {name: name for name in names}
    if key not in short:
        alike = nearest(key, short, count=1)
        hint = f"did you mean {alike}?" if alike else f"what does is {', '.join(names)}"
        raise UserError(f"--set {key}: that does not enter the update of this run; {hint}")
    table: Any = _value(value)
    for part in reversed(short[key].split(".")):
        table = {part: table}
    return from_mapping(type(config), table, where=f"--set {assignment}", base=config)


def _value(text: str) -> Any:
    """A TOML value; what is none is a text, as `0.2 -> 0.1`."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return text
