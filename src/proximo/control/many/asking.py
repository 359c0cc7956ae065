"""What a process that is to train is told, and what it answers."""

import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from proximo.control.config import TrainConfig
from proximo.control.run import run_training
from proximo.errors import UserError, require_word
from proximo.runs.config.toml import from_mapping, to_toml
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call
from proximo.runs.session.trackers import Tracker


def require_launch(launch: str, restarts: int) -> None:
    """Refuse what nobody could launch.

    Raises:
        UserError: `launch` is no word that is known, or there is no cluster to restart anything.
    """
    require_word("launch", launch, ("here", "ray"))
    if restarts and launch == "here":
        raise UserError(f"restarts = {restarts} is for the workers of a cluster: give launch = ray too")


def prepare(track: Sequence[str]) -> None:
    """Have trackers make first what trainings that begin at once would each make.

    Args:
        track: their names.

    Raises:
        UserError: one can not be reached.
    """
    for name in track:
        Tracker(name).prepare()


def told(config: TrainConfig, call: Call, mode: Mode, track: Sequence[str]) -> dict[str, Any]:
    """What another process needs to know of a training."""
    shown = "quiet" if mode == "quiet" else "plain"
    return {"config": to_toml(config), "call": vars(call), "mode": shown, "track": list(track)}


def answer(asked: Mapping[str, Any], callbacks: Sequence[Given] = ()) -> dict[str, Any]:
    """Train as `told` says: what came of it, or what the user has to mend."""
    try:
        config = from_mapping(TrainConfig, tomllib.loads(asked["config"]), where="the settings of this run")
        called = [*(Tracker(name) for name in asked["track"]), *callbacks]
        run = run_training(config, mode=asked["mode"], call=Call(**asked["call"]), callbacks=called)
        return {"results": dict(run.results), "stopped": run.stopped, "finished_before": run.finished_before}
    except UserError as error:
        return {"error": str(error)}
