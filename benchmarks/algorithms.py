"""TRPO and A2C beside those of Stable-Baselines3 (sb3-contrib), with the same settings, steps and seeds.

    OTHER/bin/pip install stable-baselines3==2.9.2 sb3-contrib==2.9.2 'gymnasium[mujoco]'      # apart from this one
    python benchmarks/algorithms.py --python OTHER/bin/python --out algorithms.jsonl

Each run is a process of one thread, two at a time. A row says the mean return of 20 deterministic and 20 sampled
episodes after training on seeds that training never saw, the mean of the last 100 training episodes, and steps/s. Runs
that are in the file already are not repeated. Both sides normalise observations and scale rewards, but on CartPole.

sb3-contrib 2.9.2 takes the mean of the KL over the action's dimensions too (trpo.py, line 284), so its bound of 0.01 is
one of 0.06 on HalfCheetah's six. "proximo, as sb3-contrib" has the bound and the damping that mean the same.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TASKS = {"CartPole-v1": 50_000, "Hopper-v5": 200_000, "HalfCheetah-v5": 200_000}
ALGORITHMS = {
    "trpo": {"environments": 16, "rollout_length": 128, "learning_rate": 1e-3, "lam": 0.95},
    "a2c": {"environments": 16, "rollout_length": 5, "learning_rate": 7e-4, "lam": 1.0},
}
DIMENSIONS = {"Hopper-v5": 3, "HalfCheetah-v5": 6}
"""Of an action."""
EPISODES, FRESH = 20, 10_000


def ours(task: str, name: str, seed: int, *, as_theirs: bool = False) -> dict[str, Any]:
    """A run of this library; `as_theirs` bounds the KL of each action dimension instead of that of the action."""
    import tempfile

    import proximo

    normalizers = {"observations": task != "CartPole-v1", "rewards": "off" if task == "CartPole-v1" else "scale"}
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        # Their value loss has no factor 1/2.
        update = {"value_coefficient": 1.0} if name == "a2c" else {}
        if as_theirs:
            update = {"max_kl": 0.01 * DIMENSIONS[task], "damping": 0.1 * DIMENSIONS[task]}
        settings = {
            **ALGORITHMS[name],
            "update": update,
            "normalizers": normalizers,
            "steps": TASKS[task],
            "seed": seed,
            "episodes": 1,
        }
        run = proximo.train(task, name, run=f"{folder}/run", progress="quiet", **settings)
        seconds = run.results["seconds"]
        seen = proximo.evaluate(run, EPISODES, seed=FRESH + seed)
    return {
        "deterministic": seen["final_deterministic"],
        "sampled": seen["final_sampled"],
        "training": run.results["last_100_training_return"],
        "steps_per_second": run.results["steps"] / seconds,
        "seconds": time.perf_counter() - started,
    }


def theirs(task: str, name: str, seed: int, *, rmsprop: bool = True) -> dict[str, Any]:
    """A run of Stable-Baselines3."""
    import numpy as np
    import torch
    from sb3_contrib import TRPO
    from stable_baselines3 import A2C
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    torch.set_num_threads(1)
    numbers = ALGORITHMS[name]
    environments: Any = make_vec_env(task, n_envs=int(numbers["environments"]), seed=seed)
    normalized = task != "CartPole-v1"
    if normalized:
        environments = VecNormalize(environments, gamma=0.99)
    shared = {"learning_rate": numbers["learning_rate"], "n_steps": int(numbers["rollout_length"]), "seed": seed}
    if name == "trpo":
        model: Any = TRPO("MlpPolicy", environments, gae_lambda=0.95, device="cpu", **shared)
    else:
        model = A2C("MlpPolicy", environments, gae_lambda=1.0, device="cpu", use_rms_prop=rmsprop, **shared)
    started = time.perf_counter()
    model.learn(TASKS[task])
    seconds = time.perf_counter() - started
    fresh: Any = make_vec_env(task, n_envs=1, seed=FRESH + seed)
    if normalized:
        fresh = VecNormalize(fresh, training=False, norm_reward=False)
        fresh.obs_rms = environments.obs_rms
    both = {
        key: float(evaluate_policy(model, fresh, EPISODES, deterministic=key == "deterministic")[0])
        for key in ("deterministic", "sampled")
    }
    training = float(np.mean([x["r"] for x in model.ep_info_buffer]))
    return {**both, "training": training, "steps_per_second": model.num_timesteps / seconds, "seconds": seconds}


AS_THEIRS = "proximo, as sb3-contrib"
WORKERS = {
    "proximo": ours,
    AS_THEIRS: lambda task, name, seed: ours(task, name, seed, as_theirs=True),
    "stable-baselines3": theirs,
    "stable-baselines3, Adam": lambda task, name, seed: theirs(task, name, seed, rmsprop=False),
}


def jobs(seeds: int) -> list[tuple[str, str, str, int]]:
    """Library, task, algorithm and seed of every run, those that are compared next to each other."""
    return [
        (library, task, name, seed)
        for name in ALGORITHMS
        for task in TASKS
        for seed in range(seeds)
        for library in WORKERS
        if (name == "a2c" or not library.endswith("Adam"))
        and (library != AS_THEIRS or (name == "trpo" and task in DIMENSIONS))
    ]


def main() -> None:
    """Run what is missing, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has stable-baselines3")
    parser.add_argument("--out", type=Path, default=Path("algorithms.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--worker", nargs=4, metavar=("LIBRARY", "TASK", "ALGORITHM", "SEED"))
    asked = parser.parse_args()
    if asked.worker:
        library, task, name, seed = asked.worker
        print(json.dumps(WORKERS[library](task, name, int(seed))))
        return
    there = [json.loads(line) for line in asked.out.read_text().splitlines()] if asked.out.exists() else []
    done = {(row["library"], row["task"], row["algorithm"], row["seed"]) for row in there}

    def run(job: tuple[str, str, str, int]) -> None:
        python = sys.executable if job[0].startswith("proximo") else asked.python
        command = [python, __file__, "--worker", *map(str, job)]
        one = {**os.environ, "OMP_NUM_THREADS": "1"}
        told = subprocess.run(command, capture_output=True, text=True, check=False, env=one)
        if told.returncode:
            print(f"{job} failed: {told.stderr.splitlines()[-1:]}", file=sys.stderr)
            return
        row = dict(zip(("library", "task", "algorithm", "seed"), job, strict=True))
        with asked.out.open("a") as file:
            file.write(json.dumps(row | json.loads(told.stdout.splitlines()[-1])) + "\n")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(run, [job for job in jobs(asked.seeds) if job not in done]))
    show([json.loads(line) for line in asked.out.read_text().splitlines()])


def show(rows: list[dict[str, Any]]) -> None:
    """A row for each library, task and algorithm."""
    keys = dict.fromkeys((row["algorithm"], row["task"], row["library"]) for row in rows)
    print("| algorithm | task | library | deterministic (seeds) | sampled | training | steps/s |")
    print("|---|---|---|---|---|---|---|")
    for key in sorted(keys):
        here = [row for row in rows if (row["algorithm"], row["task"], row["library"]) == key]
        mean = {
            name: sum(row[name] for row in here) / len(here)
            for name in ("deterministic", "sampled", "training", "steps_per_second")
        }
        each = ", ".join(f"{row['deterministic']:,.0f}" for row in sorted(here, key=lambda row: row["seed"]))
        print(
            f"| {key[0]} | {key[1]} | {key[2]} | {mean['deterministic']:,.0f} ({each}) | {mean['sampled']:,.0f} | "
            f"{mean['training']:,.0f} | {mean['steps_per_second']:,.0f} |"
        )


if __name__ == "__main__":
    main()
