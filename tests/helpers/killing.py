"""A run that is killed again and again at random moments, and compared with one that was not. Started as a process.

A moment is a random number of steps that are recorded, and a little later: how fast the machine is decides nothing.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, step_of
from proximo.runs.storage.metrics import read_metrics

HELPERS = str(Path(__file__).parent)

LATER = 0.02  # seconds at most between a record and the kill: an iteration of the tests takes as long
AT_ONCE = 5  # one process in so many is killed before it has recorded a step


def survive(train, home, *, kills, every, first=None):
    """Train in `home / "whole"`; then in other folders, killed again and again, until done or enough.

    Args:
        train: trains in a folder, or goes on there.
        home: an empty folder.
        kills: how many.
        every: steps between two checkpoints: more may not be lost.
        first: steps to the first checkpoint, if it comes later than `every`.
    """
    warnings.simplefilter("error")  # a checkpoint that is passed over is a warning
    torch.set_num_threads(1)
    chance = random.Random(0)
    train(home / "whole")  # first, so that everything is imported once
    done = runs = saved = cut = 0
    while done < kills:
        folder = home / f"killed-{runs}"
        ahead = 0 if done % AT_ONCE == AT_ONCE - 1 else chance.randint(1, 3) * every
        if not _killed(train, folder, saved + ahead if ahead else 0, chance.uniform(0, LATER)):
            compare(home / "whole", folder)  # it was done already: the next one
            runs, saved = runs + 1, 0
            continue
        done += 1
        before, saved = saved, _saved(folder)
        assert saved >= before, "a checkpoint was lost"
        recorded = _recorded(folder)
        allowed = every if saved or first is None else first
        assert recorded - saved <= allowed, f"{recorded - saved} steps were lost"
        cut += recorded > saved
    assert saved > 0 or runs > 0, "four of five processes record steps before they are killed"
    assert not _killed(train, folder, None)
    compare(home / "whole", folder)
    print("kills", done, "at", saved, "steps;", cut, "of them between a record and its checkpoint")


def compare(whole, folder):
    """The last checkpoint and the steps that were recorded."""
    (a, _), (b, _) = (load_checkpoint(latest_checkpoint(run / "checkpoints")) for run in (whole, folder))
    own = [key for key in a if not key.startswith("random/") or key.startswith("random/generators/")]
    assert a.keys() == b.keys()
    assert [key for key in own if not torch.equal(a[key], b[key])] == []
    steps = [[row["step"] for row in read_metrics(run / "metrics.jsonl")] for run in (whole, folder)]
    assert steps[0] == steps[1]


def _killed(train, folder, recorded, later=0.0):
    """Train in a process that is killed once so many steps are recorded, and a little later; False if it ended before.

    Args:
        train: trains in a folder.
        folder: where.
        recorded: steps; None kills nothing.
        later: seconds.
    """
    pid = os.fork()
    if pid == 0:
        try:
            train(folder)
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    status = None
    while recorded is not None:
        if _recorded(folder) >= recorded:
            time.sleep(later)
            os.kill(pid, signal.SIGKILL)
            break
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        time.sleep(0.001)
        status = None
    if status is None:
        _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) or status == 0
    return os.WIFSIGNALED(status)


def _saved(folder):
    if not (folder / "checkpoints").is_dir():
        return 0
    latest = latest_checkpoint(folder / "checkpoints", warn=lambda text: sys.exit(text))
    return 0 if latest is None else step_of(latest.name)


def _recorded(folder):
    file = folder / "metrics.jsonl"
    rows = read_metrics(file) if file.exists() else []  # the last line may be half written
    return rows[-1]["step"] if rows else 0
