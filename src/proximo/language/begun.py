"""Settings that a run takes from the machine and the day it begins on, and keeps from then on."""

from dataclasses import replace
from typing import Any, get_args

import torch

from proximo.language.precision import Type, chosen_type, said_of
from proximo.language.template import today
from proximo.runs.configuration import read_toml
from proximo.runs.folder import RunFolder
from proximo.runs.opening import Call


def settled(config: Any, folder: RunFolder, call: Call, device: torch.device) -> tuple[Any, str]:
    """Settings with the type of the products instead of `auto` and with a date, and a sentence about the type.

    A run keeps both as it was begun with them, so that it resumes bit for bit on another machine and on another day.

    Args:
        config: settings of a stage.
        folder: of the stage.
        call: how it begins.
        device: where it computes.
    """
    there = read_toml(folder.config) if folder.exists and not call.fresh else None
    before = str((there or {}).get("compute", ""))
    asked, kept = config.compute, before if before in get_args(Type) else ""
    compute = kept if asked == "auto" and kept else chosen_type(asked, device)
    # A run from before there were dates has none: it goes on as it was begun.
    day = today() if there is None else str(there.get("date", ""))
    config = replace(config, compute=compute, date=config.date or day)
    return config, said_of(compute, device, chosen=asked == "auto", kept=bool(kept))
