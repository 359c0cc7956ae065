"""What keeping the last updates costs: the share of a run's time, by a clock around every part of it.

    python benchmarks/replay_cost.py                                   # HalfCheetah-v5, tuned, 300,000 steps
    python benchmarks/replay_cost.py CartPole-v1 --steps 50000

Measured in the run itself, not as the difference of two runs, which is smaller than their noise.
"""

import json
import tempfile
import time
from pathlib import Path

from health_cost import Clock, ask

import proximo
from proximo.control.training import replay
from proximo.runs.replay.entry import read
from proximo.runs.replay.ring import Ring


def main() -> None:
    """Train, and print the shares."""
    asked = ask(__doc__, 300_000)
    clock = Clock()
    replay.to_tensors = clock.around("keep", replay.to_tensors)
    for name, part in (("forget", "keep"), ("begin", "keep"), ("end", "keep"), ("write", "write")):
        setattr(Ring, name, clock.around(part, getattr(Ring, name)))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        run = proximo.train(asked.environment, steps=asked.steps, run=f"{folder}/run", progress="quiet", episodes=1)
        seconds = time.perf_counter() - begun
        entries = read(Path(run.path) / "replay").entries
    shares = {name: round(spent / seconds, 5) for name, spent in clock.seconds.items()}
    print(
        json.dumps(
            {
                "environment": asked.environment,
                "steps": asked.steps,
                "seconds": round(seconds, 2),
                "shares": shares,
                "megabytes_an_update": round(entries[-1].size / 1e6, 3),
                "iterations": entries[-1].iteration + 1,
            }
        )
    )


if __name__ == "__main__":
    main()
