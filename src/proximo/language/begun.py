"""Settings that a run takes from the machine and the day it begins on, and keeps from then on."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import torch

from proximo.language.compute.precision import Type, chosen_type, said_of
from proximo.language.compute.threads import counted, free_threads, possible
from proximo.language.data.template import today
from proximo.runs.config.toml import read_toml
from proximo.runs.session.alone import alone
from proximo.runs.session.opening import Call
from proximo.runs.storage.folder import RunFolder


def settled(config: Any, folder: RunFolder, call: Call, device: torch.device) -> tuple[Any, str]:
    """Settings with the type of the products instead of `auto`, with a number of threads and a date; and what is to be
    known of these, in a sentence.

    A run keeps all three as it was begun with them, so that it resumes bit for bit at another time or place.

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
    # A run from before there were dates has none, and none of threads: it goes on as it was begun.
    day = today() if there is None else str(there.get("date", ""))
    threads, of_threads = _threads(config.threads, there, device, str(folder.path))
    of_type = said_of(compute, device, chosen=asked == "auto", kept=bool(kept))
    config = replace(config, compute=compute, threads=threads, date=config.date or day)
    return config, "; ".join(filter(None, (of_type, of_threads)))


def _threads(
    asked: int | None, there: Mapping[str, Any] | None, device: torch.device, path: str
) -> tuple[int | None, str]:
    """The number of threads of a run, and a sentence where it is not all there are."""
    if asked is not None or device.type != "cpu":
        return asked, ""
    most = torch.get_num_threads()
    if there is not None:
        kept = there.get("threads")
        if not isinstance(kept, int):  # "none", of a run that was begun on a GPU
            return None, ""
        if (here := possible(kept)) < kept:
            return (
                kept,
                f"{counted(here)} instead of the {kept} that the run was begun with, as there are no more cores",
            )
        return kept, "" if kept == most else f"{counted(kept)}, which the run was begun with"
    with alone(path):  # the number of threads is the process's
        free = free_threads()
    return free, "" if free == most else (
        f"{counted(free)}: {most} were slower just now, as other programs take some of the cores; the run keeps this "
        f"number (a new one with threads = {most} takes all)"
    )
