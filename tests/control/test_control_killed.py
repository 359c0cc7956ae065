"""kill -9 at random moments, writes included: nothing is lost beyond the last checkpoint, no torn file is read."""

import subprocess
import sys

import pytest

KILLED = """
import os, random, signal, sys, time, warnings
from pathlib import Path
import torch
import proximo
from proximo.runs.checkpoint import latest_checkpoint, load_checkpoint, step_of
from proximo.runs.metrics import read_metrics

KILLS, EVERY, STEPS = 50, 64, 64 * 120
warnings.simplefilter("error")  # a checkpoint that is passed over is a warning
torch.set_num_threads(1)
home, chance = Path(sys.argv[1]), random.Random(0)

def train(folder):
    plan = {"environments": 4, "rollout_length": 16, "steps": STEPS, "checkpoint_every": EVERY, "keep": 1, "seed": 7}
    plan |= {"episodes": 1, "update": {"epochs": 1, "minibatch_size": 32}, "network": {"hidden": [8]}}
    plan |= {"normalizers": {"observations": True, "rewards": "scale"}, "backend": "gymnasium"}
    return proximo.train("CartPole-v1", progress="quiet", run=str(folder), **plan)

def child(folder):
    pid = os.fork()  # torch is imported once
    if pid == 0:
        try:
            train(folder)
            os._exit(0)
        except BaseException as error:
            print(type(error).__name__, error, file=sys.stderr, flush=True)
            os._exit(1)
    return pid

def compare(folder):
    for name in ("final", "best"):
        a, b = (load_checkpoint(run / "checkpoints" / name)[0] for run in (home / "whole", folder))
        own = [key for key in a if not key.startswith("random/") or key.startswith("random/generators/")]
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in own)
    steps = [[row["step"] for row in read_metrics(run / "metrics.jsonl")] for run in (home / "whole", folder)]
    assert steps[0] == steps[1]

train(home / "whole")  # first, so that everything is imported once
kills = runs = saved = cut = 0
while kills < KILLS:
    folder = home / f"killed-{runs}"
    pid = child(folder)
    time.sleep(chance.uniform(0.05, 0.25))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if not os.WIFSIGNALED(status):
        assert status == 0
        compare(folder)  # it was done already: the next one
        runs, saved = runs + 1, 0
        continue
    kills += 1
    if not (folder / "checkpoints").is_dir():
        continue
    latest = latest_checkpoint(folder / "checkpoints", warn=lambda text: sys.exit(text))
    step = 0 if latest is None else step_of(latest.name)
    assert step >= saved, "a checkpoint was lost"
    rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    done = rows[-1]["step"] if rows else 0
    assert done - step <= EVERY, f"{done - step} steps were lost"
    cut += done > step
    saved = step
assert saved > 0 or runs > 0
_, status = os.waitpid(child(folder), 0)
assert status == 0
compare(folder)
print("kills", kills, "at", saved, "steps;", cut, "of them between a record and its checkpoint")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_fifty_kills_leave_the_run_that_was_never_killed(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("kills 50 ")
