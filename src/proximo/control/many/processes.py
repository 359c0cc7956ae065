"""Trainings in processes of their own, side by side on this machine."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

from proximo.control.config import TrainConfig
from proximo.control.many.asking import prepare, told
from proximo.control.result import Run
from proximo.errors import UserError
from proximo.runs.console.progress import Mode
from proximo.runs.console.streams import say
from proximo.runs.session.opening import Call
from proximo.scale.stopping import on_signal


class SideBySide:
    """Processes that train; a signal to this one, or the failure of one, stops all."""

    def __init__(self, mode: Mode, call: Call, track: Sequence[str]) -> None:
        self._mode, self._call, self._track = mode, call, track
        self._lock = threading.RLock()  # a signal's handler may come while it is held
        self._processes: list[subprocess.Popen[str]] = []
        self._asked = 0
        """How often they were told to stop."""

    def train(self, configs: Sequence[TrainConfig], parallel: int) -> list[Run]:
        """Train so many of them at once; after a stop the runs that had begun."""
        prepare(self._track)
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
        asked = told(config, self._call, self._mode, self._track)
        with suppress(BrokenPipeError):  # it was stopped; what it came to is said below
            process.stdin.write(json.dumps(asked) + "\n")
            process.stdin.flush()  # and is left open: its end tells the other side that this process is gone
        last = self._follow(process, Path(config.run).name)
        try:
            came = json.loads(process.stdout.read())
        except ValueError:
            came = {}
        process.stdin.close()
        if process.wait() == 0 and came:
            return Run(Path(config.run), config, **came)
        if self._asked and process.returncode < 0:
            return None
        what = f"the training in {config.run} ended with {process.returncode}; it said last: {last}"
        raise UserError(came.get("error", what))

    def _follow(self, process: "subprocess.Popen[str]", name: str) -> str:
        """Show what a process says, and return its last line."""
        last = ""
        assert process.stderr is not None
        for line in process.stderr:
            last = line.rstrip()
            if self._mode != "quiet":
                say(f"{name} | {last}")
        return last

    def _stop(self, number: int) -> None:
        """Tell all to stop; the third time they are killed."""
        with self._lock:
            self._asked += 1
            for process in self._processes:
                if process.poll() is None:
                    process.send_signal(number if self._asked < 3 else signal.SIGKILL)
