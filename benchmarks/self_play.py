"""Self-play in PettingZoo's board games, and a shared policy in a cooperative one: how good do they become?

Needs `pip install pettingzoo pygame` and `pip install --no-deps mpe2`. `python benchmarks/self_play.py tictactoe`
(connect-four, spread) trains three seeds and evaluates each.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np

import proximo
from proximo.control.environments import make_environments

COMMON = {"progress": "quiet", "episodes": 20}
TASKS = {
    # Without the wrappers that check every call, which take as long as the game itself.
    "tictactoe": ("pettingzoo.classic.tictactoe_v3:raw_env", 80_000, {"preset": "games"}),
    "connect-four": ("pettingzoo.classic.connect_four_v3:raw_env", 200_000, {"preset": "games"}),
    "spread": (
        "pettingzoo/simple_spread_v3",
        400_000,
        {
            "environments": 96,
            "rollout_length": 100,
            "options": {"max_cycles": 25},
            "gamma": 0.9,
            "learning_rate": "1e-3 -> 1e-4",
            "update": {"minibatch_size": 1200, "epochs": 5, "entropy_coefficient": 0.01},
            "normalizers": {"rewards": "scale"},
        },
    ),
}


def random_return(name: str, options: dict, episodes: int) -> float:
    """Mean return of one row whose actions are random."""
    environments = make_environments(name, 48, options=options)
    environments.reset(range(48))
    environments.action_space.seed(0)
    paid, ended, sums = [], 0, [0.0] * 48
    while ended < episodes:
        step = environments.step(np.array([environments.action_space.sample() for _ in range(48)]))
        for row in range(48):
            sums[row] += step.reward[row] * step.valid[row]
            if step.episode_over[row]:
                paid.append(sums[row])
                sums[row], ended = 0.0, ended + 1
    return sum(paid) / len(paid)


def main() -> None:
    """Train and print a row for each seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=0)
    parser.add_argument("--games", type=int, default=1000)
    parser.add_argument("--folder", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    name, steps, settings = TASKS[asked.task]
    if asked.task == "spread":
        print(f"random: {random_return(name, settings['options'], 480):.2f}")
        untrained = {**COMMON, **settings, "steps": 1, "learning_rate": 0.0, "seed": asked.seeds[0], "episodes": 480}
        told = proximo.train(name, run=asked.folder / "spread-untrained", **untrained).results
        print(f"untrained: {told['final_deterministic']:.2f}, sampled {told['final_sampled']:.2f}", flush=True)
    for seed in asked.seeds:
        started = time.perf_counter()
        plan = {**COMMON, **settings, "steps": asked.steps or steps, "seed": seed}
        run = proximo.train(name, run=asked.folder / f"{asked.task}-{seed}", **plan)
        seconds = time.perf_counter() - started
        told = proximo.evaluate(run, 480 if asked.task == "spread" else asked.games)
        names = [key for key in told if key.endswith("_games")] or ["final_deterministic", "final_sampled"]
        shown = {key: told[key] for key in names}
        print(f"seed {seed}, {seconds:.0f} s: {json.dumps(shown)}", flush=True)


if __name__ == "__main__":
    main()
