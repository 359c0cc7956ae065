"""A race from process start to a mean training return: used by control_speed.py, one process per seed.

usage: race.py ENVIRONMENT RETURN EPISODES SEED [MOST_STEPS]
Prints one JSON line: seconds from process start until the mean of the last EPISODES training returns passes RETURN.
"""

import contextlib
import json
import os
import sys
import time


def process_age() -> float:
    """Seconds since this process was started by the kernel, imports of Python itself included."""
    with open("/proc/self/stat") as stat:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime") as uptime:
        return float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")


class Reached(Exception):  # noqa: N818
    """The mark is passed."""


def main() -> None:
    """Run `proximo.train`, exactly as a user would, until the mark is passed."""
    name, mark, episodes, seed = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    import tempfile

    import proximo
    from proximo.control.training.training import Training

    count = Training._count
    result = {}

    def watched(self, rollout):
        count(self, rollout)
        recent = list(self.recent.returns)[-episodes:]
        if len(recent) == episodes and sum(recent) / episodes >= mark:
            result.update(seconds=round(process_age(), 2), steps=self.progress.steps)
            raise Reached

    Training._count = watched
    steps = {"steps": int(float(sys.argv[5]))} if len(sys.argv) > 5 else {}
    with tempfile.TemporaryDirectory() as folder:
        begun = time.perf_counter()
        with contextlib.suppress(Reached):
            proximo.train(name, seed=seed, run=f"{folder}/run", progress="quiet", **steps)
        result.setdefault("seconds", None)
        result["training_seconds"] = round(time.perf_counter() - begun, 2)
    print(json.dumps({"seed": seed, **result}))


if __name__ == "__main__":
    main()
