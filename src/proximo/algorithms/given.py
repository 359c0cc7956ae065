"""Algorithms given from Python: by what name a run stores them, and what of the user's own code they are."""

from collections.abc import Mapping
from typing import Any

from proximo.algorithms.base import is_ours
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.runs.config.toml import check_choice
from proximo.runs.plugins import name_of_own


def with_algorithm(settings: Mapping[str, Any], algorithm: Any) -> dict[str, Any]:
    """Settings of a run with its algorithm under `update`.

    Args:
        settings: as they were given.
        algorithm: a class, or its `module:Name`, takes a preset's numbers and those in `update`; an instance has all of
            its own; or None.

    Raises:
        UserError: it is no algorithm, has no name to be found by, or both say all settings.
    """
    settings = dict(settings)
    if algorithm is None:
        return settings
    if isinstance(algorithm, str | type):
        if isinstance(algorithm, type):
            check_choice(algorithm, UpdateSettings, f"algorithm {algorithm.__name__}")
        given = dict(settings.get("update") or {})
        return settings | {"update": given | {UpdateSettings.chosen_by: name_of_own(algorithm, "algorithm")}}
    check_choice(type(algorithm), UpdateSettings, f"algorithm {type(algorithm).__name__}")
    if "update" in settings:
        raise UserError("update and an instance of an algorithm both say all settings: give the class, and update")
    name_of_own(type(algorithm), "algorithm")  # refused now, not when the run is written
    return settings | {"update": algorithm}


def own_algorithm(update: UpdateSettings) -> dict[str, Any]:
    """The algorithm's class for a run's identity, where it is the user's own."""
    return {} if is_ours(update) else {"algorithm": type(update)}
