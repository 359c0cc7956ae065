"""What the presets reach: every row is `proximo train` in a process of its own, then the table of three numbers.

    python benchmarks/control_results.py --out results.jsonl              # everything, 3 seeds, about 40 minutes
    python benchmarks/control_results.py --out results.jsonl CartPole-v1  # some rows
    python benchmarks/control_results.py --out results.jsonl --table      # the table of what is there, in Markdown

A run that is in the file is not repeated. `--at-once 2` runs two processes side by side.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Row:
    """A task, how long to train, what it must reach, and how many episodes each evaluation has."""

    environment: str
    steps: str
    low: float
    high: float = float("inf")
    preset: str = "tuned"
    episodes: int = 20
    title: str = ""

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return self.title or f"{self.environment}{'' if self.preset == 'tuned' else f' ({self.preset})'}"

    @property
    def target(self) -> str:
        """The mark, in words."""
        return f"≥ {self.low:,g}" if self.high == float("inf") else f"{self.low:,g} to {self.high:,g}"

    def command(self, seed: int, run: str) -> list[str]:
        """What a user would type."""
        options = [
            "--preset",
            self.preset,
            "--steps",
            self.steps,
            "--seed",
            str(seed),
            "--episodes",
            str(self.episodes),
        ]
        return ["train", self.environment, *options, "--run", run]


ROWS = (
    Row("CartPole-v1", "1e5", 500),
    Row("Acrobot-v1", "5e5", -85, episodes=100),
    Row("Pendulum-v1", "2e5", -180, episodes=100),
    Row("LunarLander-v3", "1e6", 240, episodes=100),
    Row("HalfCheetah-v5", "1e6", 4500),
    Row("Hopper-v5", "1e6", 2400),
    Row("Walker2d-v5", "1e6", 3300),
    Row("InvertedDoublePendulum-v5", "1e6", 9000),
    Row("HalfCheetah-v5", "1e6", 1200, 2500, preset="paper"),
    Row(
        "tasks:cartpole_without_velocity",
        "2e5",
        400,
        preset="cartpole_without_velocity.toml",
        title="masked CartPole, GRU",
    ),
)


def interquartile_mean(values: list[float]) -> float:
    """Mean of the middle half, with the outer values counted in part where a quarter is no whole number of them."""
    x = np.sort(np.asarray(values, float))
    edges = np.linspace(0, 1, len(x) + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75) - np.maximum(edges[:-1], 0.25), 0, None)
    return float((x * weight).sum() / weight.sum())


def run(row: Row, seed: int) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "proximo.cli.main", *row.command(seed, f"{folder}/run"), "--json", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:] or [f"exit {done.returncode}"]}
    return json.loads(done.stdout.splitlines()[-1])


def read(path: Path) -> dict[tuple[str, int], dict]:
    lines = path.read_text().splitlines() if path.exists() else []
    rows = map(json.loads, lines)
    return {(r["name"], r["seed"]): r for r in rows if "error" not in r}


def table(path: Path) -> str:
    """The Markdown table: interquartile means over seeds of the three numbers, and the mark."""
    seen = read(path)
    lines = [
        "| task | steps | mark | final deterministic (seeds) | last-100 training | best checkpoint | sampled | ok |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in ROWS:
        runs = [r for (name, _), r in sorted(seen.items()) if name == row.name]
        if not runs:
            continue
        fields = ("final_deterministic", "last_100_training_return", "best_checkpoint", "final_sampled")
        final, last, best, sampled = (interquartile_mean([r[f] for r in runs]) for f in fields)
        each = ", ".join(f"{r['final_deterministic']:,.0f}" for r in runs)
        verdict = "yes" if row.low <= final <= row.high else "**no**"
        lines.append(
            f"| {row.name} | {float(row.steps):,.0f} | {row.target} | **{final:,.1f}** ({each}) | {last:,.1f} | "
            f"{best:,.1f} | {sampled:,.1f} | {verdict} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", help="names of rows; all if none is given")
    parser.add_argument("--out", type=Path, required=True, help="JSON-lines file that results are added to")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print the table and measure nothing")
    asked = parser.parse_args()
    if asked.table:
        print(table(asked.out))
        return
    known, lock = read(asked.out), threading.Lock()
    chosen = [row for row in ROWS if not asked.rows or row.name in asked.rows]
    jobs = [(row, seed) for seed in range(asked.seeds) for row in chosen if (row.name, seed) not in known]

    def work(job: tuple[Row, int]) -> None:
        row, seed = job
        result = {"name": row.name, "seed": seed, **run(row, seed)}
        with lock, asked.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
            print(f"{row.name} seed {seed}: {result.get('final_deterministic', result.get('error'))}", flush=True)

    with ThreadPoolExecutor(asked.at_once) as pool:
        list(pool.map(work, jobs))
    print(f"\n{os.cpu_count()} cores\n\n{table(asked.out)}")


if __name__ == "__main__":
    main()
