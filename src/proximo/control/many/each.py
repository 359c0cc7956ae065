"""One training for each of several seeds, in turn or side by side."""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from proximo.control.config import TrainConfig
from proximo.control.environments import Source
from proximo.control.many.asking import require_launch
from proximo.control.many.processes import SideBySide
from proximo.control.result import Run, default_run
from proximo.control.run import run_training, train
from proximo.control.trainer import Trainer
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call
from proximo.runs.session.trackers import Tracker
from proximo.scale.launched import require_one_process


def train_seeds(
    environment: Source,
    algorithm: str | UpdateSettings | type[UpdateSettings] | None = None,
    *,
    seeds: Sequence[int],
    parallel: int = 1,
    launch: Literal["here", "ray"] = "here",
    restarts: int = 0,
    run: str | PathLike[str] | None = None,
    progress: Mode = "auto",
    fresh: bool = False,
    allow_change: bool = False,
    **rest: Any,
) -> list[Run]:
    """Train once with each of several seeds, in folders RUN/seed-N; the same call goes on with what is missing.

    Args:
        environment: as `proximo.train` takes it; for more than one process a name, or `module:function`.
        algorithm: as there.
        seeds: different whole numbers.
        parallel: how many train at once, each in a process of its own.
        launch: "ray" has each trained by a worker of a Ray cluster, see `train_placed`.
        restarts: with a cluster, how often a worker that was lost is started anew.
        run: folder of the runs' folders (default: runs/ENVIRONMENT-PRESET).
        progress: live, plain, quiet, or auto.
        fresh: delete the runs that are there and start over.
        allow_change: resume with settings that differ from the folders'.
        rest: as `proximo.train` takes it: preset, network, callbacks, and settings.

    Returns:
        The runs, in order; after a stop those that had begun.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    require_launch(launch, restarts)
    settings = {**rest, "progress": progress, "fresh": fresh, "allow_change": allow_change}
    base = Trainer(environment, algorithm, run=None if run is None else str(run), **settings).config
    configs = folders(base, seeds)
    call = Call(rest.get("stop_at"), fresh, allow_change)
    if parallel != 1 or launch == "ray":
        require_one_process("training several seeds at once", "call it without torchrun, or with parallel=1")
        if not isinstance(environment, str) or rest.get("callbacks"):
            raise UserError(
                f"{'parallel' if launch == 'here' else 'launch'} needs an environment that other processes can make, "
                "a name or `module:function`, and no callbacks: train in turn, with parallel=1"
            )
        if launch == "ray":
            from proximo.control.many.placed import train_placed

            return train_placed(configs, mode=progress, call=call, restarts=restarts)
        return train_each(configs, parallel=parallel, mode=progress, call=call)
    runs = []
    for config in configs:
        runs.append(train(environment, algorithm, seed=config.seed, run=config.run, **settings))
        if runs[-1].stopped not in (None, "stop-at"):
            break
    return runs


def folders(config: TrainConfig, seeds: Sequence[int]) -> list[TrainConfig]:
    """The settings of each seed's run, which lies in a folder of its own: RUN/seed-N.

    Args:
        config: settings of all; its `run` is the folder of the folders (default: runs/ENVIRONMENT-PRESET).
        seeds: different whole numbers.

    Raises:
        UserError: there is no seed, or one stands twice.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds {', '.join(map(str, seeds)) or 'are none'}: give different ones, as --seeds 0 1 2")
    whole = Path(config.run or default_run(config).removesuffix(f"-{config.seed}"))
    return [replace(config, seed=seed, run=str(whole / f"seed-{seed}")) for seed in seeds]


def train_each(
    configs: Sequence[TrainConfig],
    *,
    parallel: int = 1,
    mode: Mode = "auto",
    call: Call,
    track: Sequence[str] = (),
    callbacks: Sequence[Given] = (),
) -> list[Run]:
    """Train every one of them; what is finished is not trained again, and what was stopped goes on.

    Args:
        configs: of runs in folders of their own; their environments are named, or `module:function`.
        parallel: how many processes train at once. Each takes as many threads as it would alone, so more than there are
            cores slow each other down.
        mode: how progress is shown; side by side, as lines that begin with the run's folder.
        call: how each begins and ends.
        track: names of trackers, see `Tracker`.
        callbacks: called while each trains, where they train in turn.

    Returns:
        The runs, in order; after a stop those that had begun.

    Raises:
        UserError: something is to be mended, in one of them; the others are stopped, and go on with the same call.
    """
    if parallel < 1:
        raise UserError(f"parallel = {parallel} must be at least 1")
    if parallel == 1:
        runs = []
        for config in configs:
            called = [*(Tracker(name) for name in track), *callbacks]
            runs.append(run_training(config, mode=mode, call=call, callbacks=called))
            if runs[-1].stopped not in (None, "stop-at"):
                break
        return runs
    return SideBySide(mode, call, track).train(configs, parallel)
