"""What seeing a run costs: one training that is shown and recorded in some iterations and not in others, in turn.

    python benchmarks/views_cost.py                              # HalfCheetah-v5, tuned
    python benchmarks/views_cost.py CartPole-v1 --rounds 400
    python benchmarks/views_cost.py --each                       # each of the parts alone, too

The parts are the live panel on a terminal of 100 columns, the histograms of ratios, `proximo watch`, which follows the
run in a process of its own on the same cores, and the run's record: `metrics.jsonl` and TensorBoard's events. `all` has
all four, and `bare` none. A round has a block of iterations of each kind, in an order of its own; a machine whose speed
changes slowly changes all of them alike. A ratio is of steps per second, and its error that of the mean of the rounds;
1 % may be lost.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from console_cost import on_a_terminal

import proximo
from proximo.control.training import training
from proximo.runs.console.progress import Progress
from proximo.runs.storage.metrics import MetricsWriter

PARTS = ("panel", "ratios", "watch", "record")


class Switch:
    """Which parts are on; puts itself in the place of what does them."""

    def __init__(self):
        self.on, self.server = set(), None
        show, write, ratios = Progress._show, MetricsWriter.write, training.ratios

        def shown(progress):
            progress._shown = time.monotonic()  # also where nothing is drawn: the next drawing is due as late
            if "panel" in self.on:
                show(progress)

        Progress._show = shown
        MetricsWriter.write = lambda *given: write(*given) if "record" in self.on else None
        training.ratios = lambda *given: ratios(*given) if "ratios" in self.on else ""

    def watch(self, run):
        """Start `proximo watch`, which stands still until it is on."""
        command = [sys.executable, "-m", "proximo", "watch", run, "--port", "0"]
        self.server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(5.0)  # seconds, for it to start
        self.server.send_signal(signal.SIGSTOP)

    def turn(self, on):
        """Have these parts on, and no others."""
        if ("watch" in on) != ("watch" in self.on):
            self.server.send_signal(signal.SIGCONT if "watch" in on else signal.SIGSTOP)
        self.on = set(on)


def measure(task, kinds, rounds, block):
    """Steps per second of each block, `{kind: (rounds,)}`."""
    switch, order, rates = Switch(), random.Random(0), {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        trainer = iter(proximo.Trainer(task, steps=10**9, run=f"{folder}/run", seed=1, progress="live"))
        for _ in range(3 * block):
            row = next(trainer)
        switch.watch(f"{folder}/run")
        for _ in range(rounds):
            for kind in order.sample(list(kinds), len(kinds)):
                switch.turn(kinds[kind])
                began, before = time.monotonic(), row["step"]
                for _ in range(block):
                    row = next(trainer)
                rates[kind].append((row["step"] - before) / (time.monotonic() - began))
        switch.server.kill()
        switch.server.wait()
        trainer.close()
    return {kind: np.array(found) for kind, found in rates.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", nargs="?", default="HalfCheetah-v5")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--block", type=int, default=10, help="iterations")
    parser.add_argument("--each", action="store_true", help="each part alone, too")
    given = parser.parse_args()
    kinds = {"bare": (), **({part: (part,) for part in PARTS} if given.each else {}), "all": PARTS}
    output = os.dup(1)
    on_a_terminal()
    rates = measure(given.environment, kinds, given.rounds, given.block)
    bare = rates.pop("bare")
    told = [f"{given.environment}, {given.rounds} rounds of {given.block} iterations: bare {bare.mean():,.0f} steps/s"]
    for kind, found in rates.items():
        change = np.log(found / bare)
        told.append(f"{kind}: {np.exp(change.mean()):.4f} ± {change.std(ddof=1) / np.sqrt(len(change)):.4f} of it")
    os.write(output, ("\n".join(told) + "\n").encode())


if __name__ == "__main__":
    main()
