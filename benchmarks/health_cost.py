"""What the truth meter costs: the share of a run's time, by a clock around every part of it.

    python benchmarks/health_cost.py                                   # HalfCheetah-v5, tuned, 200,000 steps
    python benchmarks/health_cost.py CartPole-v1 --steps 50000

Measured in the run itself (measuring in `control.vital_signs`, judging in `runs.health`), not as the difference of two
runs, which is smaller than their noise.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import proximo
from proximo.control.training import training
from proximo.runs.health.meter import TruthMeter
from proximo.runs.storage.metrics import read_metrics


class Clock:
    """Adds up the time spent in what it wraps."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, timed."""

        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begun

        return timed


def ask(about: str | None, steps: int) -> argparse.Namespace:
    """What to train on and how long; `steps` if nothing is said."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", nargs="?", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=steps)
    return parser.parse_args()


def main() -> None:
    """Train, and print the shares."""
    asked = ask(__doc__, 200_000)
    clock = Clock()
    training.fingerprint = clock.around("normalisers' fingerprints", training.fingerprint)
    training.vital_signs = clock.around("vital signs", training.vital_signs)
    TruthMeter.judge = clock.around("verdict", TruthMeter.judge)  # type: ignore[method-assign]
    TruthMeter.news = clock.around("messages", TruthMeter.news)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        proximo.train(asked.environment, steps=asked.steps, run=run, episodes=1, progress="quiet")
        rows = read_metrics(Path(run) / "metrics.jsonl")
    whole = rows[-1]["time"]
    shares = {name: seconds / whole for name, seconds in clock.seconds.items()}
    print(json.dumps({"iterations": len(rows), "seconds": whole, "share": sum(shares.values()), **shares}, indent=1))


if __name__ == "__main__":
    main()
