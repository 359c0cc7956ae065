"""The preset `robot` beside the general one on EnvPool's Go1, each run a `proximo train` in a process of its own.

    python benchmarks/robot_preset.py --out results.jsonl                       # 2 M steps, seeds 0 1 2
    python benchmarks/robot_preset.py --out results.jsonl --steps 3e5 --seeds 0
    python benchmarks/robot_preset.py --out results.jsonl --table               # of what is there, in Markdown

Seeds are taken in turn, both presets of one before the next. A run that is in the file is not repeated, and one that
was stopped resumes in `--runs`. The actor sees `state`, the critic `privileged_state` too.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

TASK = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
PRESETS = ("tuned", "robot")
GROUPS = ["--observations.actor", "state", "--observations.critic", "state", "privileged_state"]
NUMBERS = ("last_100_training_return", "final_deterministic", "final_sampled")


def train(preset: str, seed: int, steps: int, options: argparse.Namespace) -> dict | None:
    """One run to its end; None where it was stopped."""
    folder = options.runs / f"{preset}-{steps}-{seed}"
    command = [sys.executable, "-m", "proximo", "train", TASK, "--preset", preset, *GROUPS, "--json"]
    command += ["--steps", str(steps), "--seed", str(seed), "--episodes", str(options.episodes), "--run", str(folder)]
    began = time.perf_counter()
    done = subprocess.run([*command, *options.also], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{preset}, seed {seed}: exit code {done.returncode}; the same command resumes", file=sys.stderr)
        return None
    told = json.loads(done.stdout.strip().splitlines()[-1])
    wall = round(time.perf_counter() - began, 1)
    return {"preset": preset, "seed": seed, "asked": steps, "wall": wall, **told}


def read(file: Path) -> list[dict]:
    """Runs that have ended."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def table(rows: list[dict]) -> str:
    """Means over seeds, the seeds' own numbers in brackets."""
    lines = [f"| steps | preset | seeds | {' | '.join(name.replace('_', ' ') for name in NUMBERS)} |"]
    lines.append("|---" * (3 + len(NUMBERS)) + "|")
    for steps in sorted({row["asked"] for row in rows}):
        for preset in PRESETS:
            own = sorted((r for r in rows if (r["asked"], r["preset"]) == (steps, preset)), key=lambda r: r["seed"])
            cells = []
            for name in NUMBERS:
                values = [row[name] for row in own if row.get(name) is not None]
                each = ", ".join(f"{value:.2f}" for value in values)
                cells.append(f"{np.mean(values):.2f} ({each})" if values else "")
            if own:
                lines.append(f"| {steps:,} | {preset} | {len(own)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/robot-preset"))
    parser.add_argument("--steps", type=float, default=2e6)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--presets", nargs="+", default=list(PRESETS), choices=PRESETS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("also", nargs="*", help="options of `proximo train` for both, behind --")
    options = parser.parse_args()
    steps = int(options.steps)
    if not options.table:
        for seed in options.seeds:
            for preset in options.presets:
                if (preset, seed, steps) in {(r["preset"], r["seed"], r["asked"]) for r in read(options.out)}:
                    continue
                row = train(preset, seed, steps, options)
                if row is None:
                    sys.exit(3)
                with options.out.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    print(table(read(options.out)))


if __name__ == "__main__":
    main()
