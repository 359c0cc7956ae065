"""What a process that is to train is told, what it answers, and who hears the signals meanwhile."""

import signal
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from proximo.control.config import TrainConfig
from proximo.control.run import run_training
from proximo.errors import UserError, require_word
from proximo.runs.config.toml import from_mapping, to_toml
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call
from proximo.runs.session.trackers import Tracker

_STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def on_signal(stop: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT, and what else asks a process to end as SIGTERM, call `stop` in the place of ending this one."""
    heard = _STOPPING if threading.current_thread() is threading.main_thread() else ()

    def hear(number: int, _: object) -> None:
        stop(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, hear) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set outside Python


def require_launch(launch: str, restarts: int) -> None:
    """Refuse what nobody could launch.

    Raises:
        UserError: `launch` is no word that is known, or there is no cluster to restart anything.
    """
    require_word("launch", launch, ("here", "ray"))
    if restarts and launch == "here":
        raise UserError(f"restarts = {restarts} is for the workers of a cluster: give launch = ray too")


class Stops:
    """Signals that were heard; upon the third, who does not hear is given up."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._count = 0

    def __call__(self, number: int) -> None:
        """Hear one."""
        self.first, self._count = self.first or number, self._count + 1
        if self._count > 2:
            raise KeyboardInterrupt


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
