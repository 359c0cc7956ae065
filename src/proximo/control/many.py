"""One training for each of several seeds, in turn or side by side."""

import json
import os
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
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
        return train_each(configs, parallel=parallel, mode=progress, call=Call(None, fresh, allow_change))
    runs = []
    for config in configs:
        runs.append(train(environment, algorithm, seed=config.seed, run=config.run, **settings))
        if runs[-1].stopped is not None:
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
) -> list[Run]:
    """Train every one of them; what is finished is not trained again, and what was stopped goes on.

    Args:
        configs: of runs in folders of their own; their environments are named, or `module:function`.
        parallel: how many processes train at once. Each takes as many threads as it would alone, so more than there are
            cores slow each other down.
        mode: how progress is shown; side by side, as lines that begin with the run's folder.
        call: how each begins and ends.
        track: names of trackers, see `Tracker`.

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
            runs.append(run_training(config, mode=mode, call=call, callbacks=[Tracker(name) for name in track]))
            if runs[-1].stopped not in (None, "stop-at"):
                break
        return runs
    return _SideBySide(mode, call, track).train(configs, parallel)


class _SideBySide:
    """Processes that train; a signal to this one, or the failure of one, stops all."""

    def __init__(self, mode: Mode, call: Call, track: Sequence[str]) -> None:
        self._mode, self._call, self._track = mode, call, track
        self._lock = threading.Lock()
        self._processes: list[subprocess.Popen[str]] = []
        self._stopping = False

    def train(self, configs: Sequence[TrainConfig], parallel: int) -> list[Run]:
        before = signal.signal(signal.SIGTERM, lambda *_: self._stop(signal.SIGTERM))
        try:
            with ThreadPoolExecutor(parallel) as pool:
                waiting = [pool.submit(self._one, config) for config in configs]
                try:
                    answers = [each.result() for each in waiting]
                except BaseException:
                    self._stop(signal.SIGINT)
                    raise
        finally:
            signal.signal(signal.SIGTERM, before)
        return [run for run in answers if run is not None]

    def _one(self, config: TrainConfig) -> Run | None:
        with self._lock:
            if self._stopping:
                return None
            process = subprocess.Popen(
                [sys.executable, "-m", "proximo.control.many"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                start_new_session=True,  # Ctrl-C at the terminal reaches this process alone, which tells the others
            )
            self._processes.append(process)
        assert process.stdin is not None
        assert process.stdout is not None
        mode = "quiet" if self._mode == "quiet" else "plain"
        told = {"config": to_toml(config), "call": vars(self._call), "mode": mode, "track": self._track}
        process.stdin.write(json.dumps(told))
        process.stdin.close()
        last = self._follow(process, Path(config.run or "").name)
        answer = json.loads(process.stdout.read() or "{}")
        if process.wait() or not answer:
            what = f"the training in {config.run} ended with {process.returncode}; it said last: {last}"
            raise UserError(answer.get("error", what))
        return Run(Path(config.run or ""), config, **answer)

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
        with self._lock:
            self._stopping = True
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(number)


def main() -> int:
    """Train as standard input says, and tell what came of it; 2 where the user has something to mend."""
    told: dict[str, Any] = json.loads(sys.stdin.read())
    try:
        config = from_mapping(TrainConfig, tomllib.loads(told["config"]), where="the settings of this run")
        callbacks = [Tracker(name) for name in told["track"]]
        run = run_training(config, mode=told["mode"], call=Call(**told["call"]), callbacks=callbacks)
    except UserError as error:
        print(json.dumps({"error": str(error)}))
        return 2
    answer = {"results": dict(run.results), "stopped": run.stopped, "finished_before": run.finished_before}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
