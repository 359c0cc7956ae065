"""Trainings as jobs of a Ray cluster, which places them."""

import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from proximo.control.config import TrainConfig
from proximo.control.many.asking import answer, prepare, told
from proximo.control.result import Run
from proximo.errors import UserError
from proximo.runs.console.progress import Mode
from proximo.runs.session.opening import Call
from proximo.runs.session.trainer import STOPPED
from proximo.scale.jobs import Say, run_jobs
from proximo.scale.stopping import Stops, on_signal


def train_placed(
    configs: Sequence[TrainConfig], *, mode: Mode, call: Call, track: Sequence[str] = (), restarts: int = 0
) -> list[Run]:
    """Train every one of them on a Ray cluster; what is finished is not trained again, and what was stopped goes on.

    Args:
        configs: of runs in folders of their own, on a disk that every machine of the cluster sees; their environments
            are named, or `module:function`.
        mode: quiet, or lines with Ray's prefix.
        call: how each begins and ends.
        track: names of trackers, see `Tracker`.
        restarts: how often one is started anew, from its last checkpoint, where its worker was lost.

    Returns:
        The runs, in order; after a signal those that had begun.

    Raises:
        UserError: something is to be mended, in one of them; the others are stopped, and go on with the same call.
    """
    prepare(track)
    placed = {Path(config.run).name: config for config in configs}
    waiting, here = iter(placed.items()), Path.cwd()
    came, failed, stops = dict[str, Mapping[str, Any]](), list[str](), Stops()

    def following() -> tuple[str, Any] | None:
        if stops.first or failed or (named := next(waiting, None)) is None:
            return None
        name, config = named
        return name, told(replace(config, run=str(here / config.run)), call, mode, track)

    def ended(name: str, what: Mapping[str, Any] | None, lost: str) -> None:
        what = what or {"error": f"the training in {placed[name].run} failed: {lost}"}
        if "error" in what:
            failed.append(what["error"])
        else:
            came[name] = what

    def heard(*_: object) -> int | None:
        return stops.first or (signal.SIGTERM if failed else None)

    gpus = any(config.device != "cpu" for config in configs)
    run_jobs(train_here, following, heard, ended, on_signal(stops), restarts=restarts, gpus=gpus)
    if failed:
        raise UserError(failed[0])
    return [Run(Path(config.run), config, **came[name]) for name, config in placed.items() if name in came]


def train_here(asked: dict[str, Any], say: Say) -> dict[str, Any]:
    """What the worker of a training does.

    Args:
        asked: see `told`.
        say: asks the launcher, which answers with the signal to stop as upon.
    """
    number = None

    def listen(trainer: Any, _: object) -> None:
        nonlocal number
        if number := number or say.answered():
            trainer.stop()

    if say.begun > 1:  # or what was done before the loss of a worker would be deleted
        asked = {**asked, "call": {**asked["call"], "fresh": False}}
    came = answer(asked, [listen])
    return {**came, "stopped": signal.Signals(number).name} if number and came.get("stopped") == STOPPED else came
