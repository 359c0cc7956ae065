"""One training for each of several seeds, in turn or side by side."""

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

from proximo.control.config import TrainConfig
from proximo.control.environments import Source
from proximo.control.result import Run, default_run
from proximo.control.run import run_training, train
from proximo.control.trainer import Trainer
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, to_toml
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call
from proximo.runs.session.trackers import Tracker


def train_seeds(
    environment: Source,
    algorithm: str | UpdateSettings | type[UpdateSettings] | None = None,
    *,
    seeds: Sequence[int],
    parallel: int = 1,
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
    settings = {**rest, "progress": progress, "fresh": fresh, "allow_change": allow_change}
    base = Trainer(environment, algorithm, run=None if run is None else str(run), **settings).config
    configs = folders(base, seeds)
    if parallel != 1:
        if not isinstance(environment, str) or rest.get("callbacks"):
            raise UserError(
                "parallel needs an environment that other processes can make, a name or `module:function`, and no "
                "callbacks: train in turn, with parallel=1"
            )
        return train_each(
            configs, parallel=parallel, mode=progress, call=Call(rest.get("stop_at"), fresh, allow_change)
        )
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
    return _SideBySide(mode, call, track).train(configs, parallel)


class _SideBySide:
    """Processes that train; a signal to this one, or the failure of one, stops all."""

    def __init__(self, mode: Mode, call: Call, track: Sequence[str]) -> None:
        self._mode, self._call, self._track = mode, call, track
        self._lock = threading.RLock()  # a signal's handler may come while it is held
        self._processes: list[subprocess.Popen[str]] = []
        self._asked = 0
        """How often they were told to stop."""

    def train(self, configs: Sequence[TrainConfig], parallel: int) -> list[Run]:
        with on_signal(self._stop), ThreadPoolExecutor(parallel) as pool:
            waiting = [pool.submit(self._one, config) for config in configs]
            try:
                done, _ = wait(waiting, return_when=FIRST_EXCEPTION)
                if failed := next((each for each in done if each.exception() is not None), None):
                    raise failed.exception() or AssertionError
            except BaseException:
                self._stop(signal.SIGTERM)
                raise
            answers = [each.result() for each in waiting]
        return [run for run in answers if run is not None]

    def _one(self, config: TrainConfig) -> Run | None:
        """The run of one process; None of one that was stopped before it had begun."""
        with self._lock:
            if self._asked:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "proximo.control.many"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C at the terminal reaches this process alone, which tells the others
            )
            self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        told = _told(config, self._call, self._mode, self._track)
        with suppress(BrokenPipeError):  # it was stopped; what it came to is said below
            process.stdin.write(json.dumps(told) + "\n")
            process.stdin.flush()  # and is left open: its end tells the other side that this process is gone
        last = self._follow(process, Path(config.run).name)
        try:
            answer = json.loads(process.stdout.read())
        except ValueError:
            answer = {}
        process.stdin.close()
        if process.wait() == 0 and answer:
            return Run(Path(config.run), config, **answer)
        if self._asked and process.returncode < 0:
            return None
        what = f"the training in {config.run} ended with {process.returncode}; it said last: {last}"
        raise UserError(answer.get("error", what))

    def _follow(self, process: "subprocess.Popen[str]", name: str) -> str:
        """Show what a process says, and return its last line."""
        last = ""
        assert process.stderr is not None
        for line in process.stderr:
            last = line.rstrip()
            if self._mode != "quiet":
                print(f"{name} | {last}", file=sys.stderr, flush=True)
        return last

    def _stop(self, number: int) -> None:
        """Tell all to stop; the third time they are killed."""
        with self._lock:
            self._asked += 1
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(number if self._asked < 3 else signal.SIGKILL)


_STOPPING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def on_signal(stop: Callable[[int], None]) -> Iterator[None]:
    """Have SIGINT, and what else asks a process to end as SIGTERM, call `stop` in the place of ending this one."""
    heard = _STOPPING if threading.current_thread() is threading.main_thread() else ()

    def told(number: int, _: object) -> None:
        stop(signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    before = {number: signal.signal(number, told) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main() -> int:
    """Train as the first line of standard input says, and tell what came of it; 2 where the user has something to mend.

    Standard output belongs to the answer alone: whatever else is printed goes where messages go.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    told: dict[str, Any] = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_without_parent, daemon=True).start()
    answer = _answer(told)
    answers.write(json.dumps(answer))
    answers.close()
    return 2 if "error" in answer else 0


def _told(config: TrainConfig, call: Call, mode: Mode, track: Sequence[str]) -> dict[str, Any]:
    """What another process needs to know of a training."""
    shown = "quiet" if mode == "quiet" else "plain"
    return {"config": to_toml(config), "call": vars(call), "mode": shown, "track": list(track)}


def _answer(told: Mapping[str, Any], callbacks: Sequence[Given] = ()) -> dict[str, Any]:
    """Train as `_told` says: what came of it, or what the user has to mend."""
    try:
        config = from_mapping(TrainConfig, tomllib.loads(told["config"]), where="the settings of this run")
        called = [*(Tracker(name) for name in told["track"]), *callbacks]
        run = run_training(config, mode=told["mode"], call=Call(**told["call"]), callbacks=called)
        return {"results": dict(run.results), "stopped": run.stopped, "finished_before": run.finished_before}
    except UserError as error:
        return {"error": str(error)}


def _stop_without_parent() -> None:
    """Stop as upon SIGTERM once the process that began this one is gone, and its end of the pipe with it."""
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
