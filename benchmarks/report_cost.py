"""What a report costs: its size and time for many long runs, and what counting the ratios costs a training.

    python benchmarks/report_cost.py                     # 10 runs of 5,000 iterations, HalfCheetah-v5 for 50,000 steps
    python benchmarks/report_cost.py CartPole-v1 --steps 50000

`screen` is when a headless Chromium has drawn all that the first screen (1280 x 800) shows, in seconds since the page
began to load; `all` when every figure has been scrolled to and drawn, without the waiting of a reader. The rows are
those of a short training, repeated with other numbers: as many columns as a real run has. The histogram's time is taken
by a clock around it in the run itself; the policy's answer that it reads is made for the exact KL too.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "helpers"))

import numpy as np
from browser import chromium
from health_cost import Clock, ask

import proximo
from proximo.control.training import training
from proximo.runs.storage.metrics import read_metrics

RUNS, ITERATIONS = 10, 5_000


def make(folder: Path, trained: Path, seed: int) -> Path:
    """A run of so many iterations, with the columns of a trained one."""
    rows, noise = read_metrics(trained / "metrics.jsonl"), np.random.default_rng(seed)
    folder.mkdir()
    with open(folder / "metrics.jsonl", "w") as file:
        for i in range(ITERATIONS):
            row = dict(rows[i % len(rows)])
            row |= {key: x * noise.uniform(0.5, 1.5) for key, x in row.items() if type(x) is float}
            file.write(json.dumps(row | {"step": 2048 * (i + 1), "time": 1.0 * (i + 1)}) + "\n")
    settings = (trained / "config.toml").read_text().splitlines()
    (folder / "config.toml").write_text("\n".join(f"seed = {seed}" if x.startswith("seed =") else x for x in settings))
    (folder / "results.json").write_text("{}")
    return folder


SCROLL = """(async () => {
  const until = async (condition) => { while (!condition()) await new Promise((next) => setTimeout(next, 5)); };
  for (const plot of document.querySelectorAll(".plot")) {
    plot.scrollIntoView({ block: "center" });
    await until(() => plot.querySelector(".main-svg"));
  }
  return performance.now();
})()"""


def opened(file: Path, folder: Path) -> dict[str, float]:
    """Seconds until the first screen is drawn, and until all is."""
    with chromium(folder) as page:
        page.size(1280, 800)
        page.open(f"file://{file}")
        first = page.wait("document.documentElement.dataset.screen")
        return {"screen": round(float(first) / 1000, 2), "all": round(page.run(SCROLL) / 1000, 2)}


def main() -> None:
    """Train, make the runs, write the report and print the numbers."""
    asked, clock = ask(__doc__, 50_000), Clock()
    training.ratios = clock.around("ratios", training.ratios)  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proximo.train(asked.environment, steps=asked.steps, run=f"{name}/run", episodes=1, progress="quiet")
        rows = read_metrics(folder / "run" / "metrics.jsonl")
        runs = [make(folder / f"made-{seed}", folder / "run", seed) for seed in range(RUNS)]
        proximo.report(folder / "run")  # imports are no cost of the long one
        begun = time.perf_counter()
        file = proximo.report(runs, out=folder / "report.html")
        seconds = time.perf_counter() - begun
        size = file.stat().st_size
        shown = [opened(file, folder / f"profile-{i}") for i in range(3)]
    found = {
        "report": {"runs": RUNS, "iterations": ITERATIONS, "seconds": round(seconds, 1), "MB": round(size / 1e6, 2)},
        "opened": shown,
        "histogram": {
            "environment": asked.environment,
            "iterations": len(rows),
            "share": clock.seconds.get("ratios", 0.0) / rows[-1]["time"],
        },
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
