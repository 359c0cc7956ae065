"""What seeing a run costs: a training that is shown and recorded, against the same that is not, in turns.

    python benchmarks/views_cost.py                              # HalfCheetah-v5, tuned
    python benchmarks/views_cost.py CartPole-v1 --turns 40
    python benchmarks/views_cost.py --each                       # each of the parts alone, too

The parts are the live panel on a terminal of 100 columns, the histograms of ratios, `proximo watch`, which follows the
run in a process of its own on the same cores, and the run's record: `metrics.jsonl` and TensorBoard's events. `all` has
all four, and `bare` none. They take turns of a few seconds (`taking_turns.py`). A ratio is of steps per second, and its
error that of the mean of the turns; 1 % may be lost.
"""

import argparse
import os
import subprocess
import sys
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")

from console_cost import on_a_terminal
from taking_turns import Diary, Group, ratio, take_turns

PARTS = ("panel", "ratios", "watch", "record")


def leave_out(parts):
    """Take out of a training what it does for these."""
    from proximo.control.training import training
    from proximo.runs.storage.metrics import MetricsWriter

    if "ratios" in parts:
        training.ratios = lambda *_: ""
    if "record" in parts:
        MetricsWriter.write = lambda *_: None


def work(task, folder, name):
    """Train until the comparison is over."""
    parts = PARTS if name == "all" else (name,)
    leave_out([part for part in PARTS if part not in parts])
    if "panel" in parts:
        on_a_terminal()
    import proximo

    run = f"{folder}/{name}"
    trainer = proximo.Trainer(task, steps=10**9, run=run, seed=1, progress="live" if "panel" in parts else "quiet")
    diary, server = Diary(folder, f"{name}.0"), None
    for row in trainer:
        if server is None and "watch" in parts:
            watching = [sys.executable, "-m", "proximo", "watch", run, "--port", "0"]
            server = subprocess.Popen(watching, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            diary.beside.append(server.pid)  # it stands still when this does
        if diary.note(row["step"]):
            break
    if server is not None:
        server.kill()
    diary.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", nargs="?", default="HalfCheetah-v5")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=4, help="of a turn")
    parser.add_argument("--each", action="store_true", help="each part alone, too")
    parser.add_argument("--work", nargs=2)
    given = parser.parse_args()
    if given.work:
        work(given.environment, *given.work)
        return
    names = ["bare", *(PARTS if given.each else ()), "all"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, given.environment, "--work", folder]
        groups = [Group(folder, name, [[*command, name]], [f"{name}.0"]) for name in names]
        take_turns(groups, given.turns, given.seconds)
    bare = groups[0]
    print(f"{given.environment}, {given.turns} turns of {given.seconds:g} s: bare {bare.rates().mean():,.0f} steps/s")
    for group in groups[1:]:
        share, error = ratio(group, bare)
        print(f"{group.name}: {share:.4f} ± {error:.4f} of it")


if __name__ == "__main__":
    main()
