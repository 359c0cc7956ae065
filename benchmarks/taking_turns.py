"""Compares programs on a machine whose speed changes: all are started, and take turns of a few seconds.

The others are stopped (SIGSTOP) meanwhile, so what else the machine does is in all of them alike. A program keeps a
`Diary` of what it has done and when; what it did in its own turns is its rate.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SETTLED = 300.0  # seconds for a program to start and to do its first piece of work


class Diary:
    """Times at which a program had done so much work. With the first entry it may be stopped and timed."""

    def __init__(self, folder, name):
        self.folder, self.name, self.entries = Path(folder), name, []
        self.beside = []
        """Processes of its own, which stand still when it does; those that are there at the first entry."""

    def note(self, done):
        """`done` units of work are finished now, all in all. True where the comparison is over."""
        self.entries.append((time.monotonic(), done))
        if len(self.entries) == 1:
            self._write("pid", [os.getpid(), *self.beside])
        return (self.folder / f"{self.name.partition('.')[0]}.over").exists()

    def close(self, **told):
        self._write("told", {"entries": self.entries, **told})

    def _write(self, what, value):
        part = self.folder / f"{self.name}.part"
        part.write_text(json.dumps(value))
        part.replace(self.folder / f"{self.name}.{what}")


class Group:
    """Programs that go on together: those that `commands` start, each of which keeps one of the diaries `names`."""

    def __init__(self, folder, name, commands, names):
        self.folder, self.name, self.diaries, self.turns = Path(folder), name, names, []
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.processes = [subprocess.Popen(c, env=environment, start_new_session=True, **quiet) for c in commands]

    def settle(self):
        """Wait until each program has begun to work, and stop them."""
        until = time.monotonic() + SETTLED
        while not all((self.folder / f"{d}.pid").exists() for d in self.diaries):
            if time.monotonic() > until or any(p.poll() is not None for p in self.processes):
                raise SystemExit(f"taking_turns: {self.name} ended, or did nothing, within {SETTLED:g} s")
            time.sleep(0.1)
        self.pids = [pid for d in self.diaries for pid in json.loads((self.folder / f"{d}.pid").read_text())]
        self._tell(signal.SIGSTOP)

    def _tell(self, number):
        for pid in self.pids:
            os.kill(pid, number)

    def go_on(self, seconds):
        self._tell(signal.SIGCONT)
        began = time.monotonic()
        time.sleep(seconds)
        self._tell(signal.SIGSTOP)
        self.turns.append((began, time.monotonic()))

    def finish(self):
        """End the programs, and keep what each told."""
        (self.folder / f"{self.name}.over").touch()
        self._tell(signal.SIGCONT)
        for process in self.processes:
            process.wait(SETTLED)
        self.told = [json.loads((self.folder / f"{d}.told").read_text()) for d in self.diaries]

    def kill(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # stopped ones too
                process.wait()

    def own_time(self, moments):
        """Seconds of its own turns before each of `moments` (seconds of the monotonic clock)."""
        moments = np.asarray(moments, dtype=float)[..., None]
        began, ended = np.array(self.turns).T
        return np.clip(moments - began, 0.0, ended - began).sum(-1)

    def done(self, entries, moments):
        """Units of work finished at `moments`, between two entries in proportion to the program's own time."""
        when, units = np.array(entries).T
        return np.interp(self.own_time(moments), self.own_time(when), units)

    def rates(self):
        """Units per second of the programs together, (turns - 2,).

        The first turn is left out, which ends a piece of work that began before it, and the last, after which one ends.
        """
        began, ended = np.array(self.turns[1:-1]).T
        done = sum(self.done(t["entries"], ended) - self.done(t["entries"], began) for t in self.told)
        return done / (ended - began)


def take_turns(groups, turns, seconds):
    """Let each group go on for `seconds`, `turns` times, in an order that is turned round each time."""
    try:
        for group in groups:  # one after the other: starting takes both cores
            group.settle()
        for turn in range(turns):
            for group in groups if turn % 2 else groups[::-1]:
                group.go_on(seconds)
            print(".", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        for group in groups:
            group.finish()
    finally:
        for group in groups:
            group.kill()


def ratio(one, other):
    """The ratio of two groups' mean rates, and its standard error from the turns, paired."""
    a, b = one.rates(), other.rates()
    found = a.mean() / b.mean()
    return found, float(np.std(a - found * b, ddof=1) / np.sqrt(len(a)) / b.mean())
