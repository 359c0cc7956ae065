r"""What PPO on movie reviews reaches over seeds, measured by a judge that training never saw.

    python benchmarks/language_results.py --run runs/movies --seeds 0 1 2    # times: docs/results-language.md
    python benchmarks/language_results.py --run runs/movies --seeds 1 --name beta-0.25 \
        --prompts movie-sentiment/sft_validation.jsonl -- --kl.coefficient 0.25

All stages of the preset `movie-sentiment`, then one PPO run per seed, each in RUN/NAME-SEED; what follows -- are
settings of `proximo rlhf ppo`. A stage that is done is not done again. The judge is another architecture
(all-MiniLM-L6-v2), taught by the other half of each text's raters; see `proximo.language.comparison` for what is
measured. A line of JSON per seed goes to RUN/results.jsonl, with the command that made it.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from proximo.language.comparison import compare
from proximo.language.stages import BUILT_IN, built_in_file

PRESET = "movie-sentiment"


def stage(run: Path, name: str, *options) -> float:
    command = ["rlhf", name, "--preset", PRESET, "--run", str(run), *map(str, options)]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "proximo.cli.main", *command], check=True)
    return time.monotonic() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--name", default="seed")
    parser.add_argument("--prompts", default=f"{BUILT_IN}prompts_test.jsonl", help="what is answered for the judge")
    parser.add_argument("settings", nargs="*", help="of PPO, after --")
    asked = parser.parse_args()
    run = asked.run
    for name in ("sft", "reward", "judge"):
        stage(run, name)
    results = run / "results.jsonl"
    known = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    for seed in asked.seeds:
        if (asked.name, seed) in {(row["name"], row["seed"]) for row in known}:
            continue
        folder = run / f"{asked.name}-{seed}"
        options = ["--policy", run / "sft", "--rewards", run / "reward", "1", "--seed", seed, *asked.settings]
        seconds = stage(folder, "ppo", *options)
        seen = compare(folder, run / "judge", prompts=built_in_file(asked.prompts))
        row = {"name": asked.name, "seed": seed, "settings": asked.settings, "prompts": asked.prompts}
        row |= {"seconds": round(seconds), **seen}
        with open(results, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps({k: v for k, v in row.items() if k != "examples"}), flush=True)


if __name__ == "__main__":
    main()
