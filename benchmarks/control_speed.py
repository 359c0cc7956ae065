"""How fast the control half is, beside its peers, all in one run and interleaved.

    python benchmarks/control_speed.py                     # everything, about 25 minutes on 2 cores
    python benchmarks/control_speed.py throughput imports  # some sections

Needs `pip install stable-baselines3==2.9.2` for the comparison and, for the section rl_games,
`pip install --no-deps rl-games==1.6.5 setproctitle psutil tensorboardX watchdog PyYAML`; a peer that is not installed
is said to be missing. Every figure is a process of its own. On a shared machine only ratios within one run mean
anything.
Results are added to the file given by --out as they come, and what is there already is not measured again.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
CHEETAH = "HalfCheetah-v5"
SB3_STEPS = 300_000
CURVE = (100_000, 200_000, 300_000)  # where the learning curves are compared
SETTINGS = {  # SB3's defaults, with 16 x 128 steps and minibatches of 256
    "environments": 16,
    "rollout_length": 128,
    "update": {
        "epochs": 10,
        "minibatch_size": 256,
        "target_kl": "none",
        "normalize_advantages": "minibatch",
        "value_coefficient": 1.0,  # our value loss has a factor 1/2, SB3's 0.5 has none
    },
    "normalizers": {"observations": False, "rewards": "off"},
    "network": {"hidden": (64, 64), "activation": "tanh", "log_std": 0.0},
    "learning_rate": "3e-4",
    "checkpoint_every": 250_000,
}


# Workers: each runs in a process of its own and returns what it measured


def work_proximo(steps: int, seed: int) -> dict:
    import proximo

    with tempfile.TemporaryDirectory() as folder:
        run = proximo.train(
            CHEETAH, preset="tuned", steps=steps, seed=seed, run=f"{folder}/r", progress="quiet", **SETTINGS
        )
        rows = [json.loads(line) for line in (Path(folder) / "r/metrics.jsonl").read_text().splitlines()]
    phases = {name: round(sum(r[f"seconds/{name}"] for r in rows), 2) for name in ("environment", "policy", "update")}
    return {
        "steps_per_second": run.results["steps_per_second"],
        "seconds": run.results["seconds"],
        **phases,
        "curve": [[r["return"] for r in rows if r["step"] <= step][-1] for step in CURVE],
        "return": rows[-1]["return"],
    }


def work_environment(steps: int, seed: int) -> dict:
    """The same environments alone, through the same face, random actions made beforehand."""
    import numpy as np

    from proximo.control.environments import make_environments

    environments = make_environments(CHEETAH, 16)
    environments.reset(list(range(seed, seed + 16)))
    actions = np.random.default_rng(seed).uniform(-1, 1, (64, 16, 6))
    start = time.perf_counter()
    for i in range(steps // 16):
        environments.step(actions[i % 64])
    seconds = time.perf_counter() - start
    return {"steps_per_second": steps / seconds, "seconds": seconds}


def work_sb3(steps: int, seed: int, threads: int) -> dict:
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    seen: list[tuple[int, float]] = []

    class Curve(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_end(self) -> None:
            recent = [episode["r"] for episode in self.model.ep_info_buffer]
            seen.append((self.num_timesteps, sum(recent) / max(1, len(recent))))

    torch.set_num_threads(threads)
    model = PPO(
        "MlpPolicy", make_vec_env(CHEETAH, 16, seed=seed), n_steps=128, batch_size=256, n_epochs=10, device="cpu"
    )
    start = time.perf_counter()
    model.learn(steps, callback=Curve())
    seconds = time.perf_counter() - start
    curve = [[value for at, value in seen if at <= step][-1] for step in CURVE]
    return {"steps_per_second": steps / seconds, "seconds": seconds, "curve": curve}


RL_GAMES = {"environments": 64, "rollout_length": 256}


def work_proximo_as_rl_games(steps: int, seed: int) -> dict:
    import proximo

    settings = {
        **RL_GAMES,
        "update": {
            "epochs": 5,
            "minibatch_size": 2048,
            "max_grad_norm": 1.0,
            "adaptive_kl": 0.008,
            "value_coefficient": 4.0,
        },
        "network": {"hidden": (128, 64, 32), "activation": "elu", "shared": True, "log_std": 0.0},
        "normalizers": {"observations": True, "rewards": "return"},
        "learning_rate": 5e-4,
        "checkpoint_every": 10**9,
    }
    with tempfile.TemporaryDirectory() as folder:
        proximo.train(CHEETAH, steps=steps, seed=seed, run=f"{folder}/r", progress="quiet", **settings)
        rows = [json.loads(line) for line in (Path(folder) / "r/metrics.jsonl").read_text().splitlines()][1:]
    taken, seconds = rows[-1]["step"] - rows[0]["step"], rows[-1]["time"] - rows[0]["time"]
    return {"steps_per_second": taken / seconds, "seconds": seconds}


def work_rl_games(steps: int, seed: int) -> dict:
    """rl_games 1.6.5 with its own halfcheetah_envpool.yaml, on EnvPool through a small adapter."""
    from rl_games_adapter import train

    return train(CHEETAH, steps, seed, **RL_GAMES)


def work_memory(steps: int, seed: int) -> dict:
    import proximo

    settings = {"environments": 8, "rollout_length": 32, "checkpoint_every": 100_000}
    with tempfile.TemporaryDirectory() as folder:
        proximo.train("CartPole-v1", steps=steps, seed=seed, run=f"{folder}/r", progress="quiet", **settings)
        rows = [json.loads(line) for line in (Path(folder) / "r/metrics.jsonl").read_text().splitlines()]
    return {"at_100": rows[99]["memory_mb"], "at_1000": rows[999]["memory_mb"], "iterations": len(rows)}


WORKERS = {
    "proximo": work_proximo,
    "environment": work_environment,
    "sb3": work_sb3,
    "proximo-as-rl_games": work_proximo_as_rl_games,
    "rl_games": work_rl_games,
    "memory": work_memory,
}


# Sections: which workers, how often, and what is printed


class Record:
    """Measurements by key in a JSON-lines file; a key that is there is not measured again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.known = {row["key"]: row["value"] for row in map(json.loads, lines)}

    def measure(self, key: str, command: list[str]) -> dict | None:
        if key not in self.known:
            done = subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False)
            value = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 and done.stdout else None
            if value is None:
                print(f"  {key}: failed: {(done.stderr or 'no output').strip().splitlines()[-1]}", flush=True)
                return None
            self.known[key] = value
            with self.path.open("a") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")
        print(f"  {key}: {json.dumps(self.known[key])}", flush=True)
        return self.known[key]

    def worker(self, key: str, name: str, *arguments: int) -> dict | None:
        return self.measure(key, [sys.executable, __file__, "--worker", name, *map(str, arguments)])


def _median(values: list[dict | None], field: str) -> float:
    """Of what was measured; a race that was not won took forever."""
    known = [float("inf") if v[field] is None else v[field] for v in values if v]
    return statistics.median(known or [float("nan")])


def throughput(record: Record) -> None:
    rounds = range(3)
    names = {"proximo": (1_000_000,), "environment": (500_000,), "sb3-1": (SB3_STEPS,), "sb3-2": (SB3_STEPS,)}
    seen: dict[str, list] = {name: [] for name in names}
    for i in rounds:
        for name, (steps,) in names.items():
            worker, _, threads = name.partition("-")
            arguments = (steps, i, int(threads)) if threads else (steps, i)
            seen[name].append(record.worker(f"throughput/{name}/{i}", worker, *arguments))
    speed = {name: _median(values, "steps_per_second") for name, values in seen.items()}
    sb3, ours, alone = max(speed["sb3-1"], speed["sb3-2"]), speed["proximo"], speed["environment"]
    print(f"Proximo, whole runs of 1M: {ours:,.0f} steps/s; SB3: {sb3:,.0f} -> {ours / sb3:.2f} x (mark 2.2)")
    print(f"the environments alone: {alone:,.0f} steps/s -> {alone / ours:.2f} x their time (mark 2)")
    for i, step in enumerate(CURVE):
        returns = {n: sorted(round(v["curve"][i]) for v in seen[n] if v) for n in ("proximo", "sb3-1", "sb3-2")}
        print(f"mean return after {step:,} steps, each run: {json.dumps(returns)}")


def cartpole(record: Record) -> None:
    runs = [_race(record, "cartpole", "CartPole-v1", 475, seed, "1e5") for seed in range(5)]
    print(f"CartPole-v1, start to 475 over 20 episodes: median {_median(runs, 'seconds'):.2f} s (mark 6)")


def cheetah(record: Record) -> None:
    runs = [_race(record, "cheetah", CHEETAH, 2000, seed, "1e6") for seed in range(3)]
    print(f"HalfCheetah-v5 from process start to 2,000: median {_median(runs, 'seconds'):.1f} s (mark 45)")


def _race(record: Record, key: str, name: str, mark: float, seed: int, steps: str) -> dict | None:
    return record.measure(f"{key}/{seed}", [sys.executable, "race.py", name, str(mark), "20", str(seed), steps])


def rl_games(record: Record) -> None:
    ours, theirs = [], []
    for i in range(3):
        ours.append(record.worker(f"rl_games/proximo/{i}", "proximo-as-rl_games", 300_000, i))
        theirs.append(record.worker(f"rl_games/rl_games/{i}", "rl_games", 300_000, i))
    a, b = _median(ours, "steps_per_second"), _median(theirs, "steps_per_second")
    print(f"at rl_games' settings (autograd path): {a:,.0f} steps/s; rl_games {b:,.0f} -> {a / b:.2f} x (mark 1.2)")


def memory(record: Record) -> None:
    seen = record.worker("memory", "memory", 262_000, 0)
    if seen:
        growth = seen["at_1000"] / seen["at_100"] - 1
        print(f"RSS {seen['at_100']:.1f} MB at iteration 100, {seen['at_1000']:.1f} at 1,000: {growth:+.2%} (mark 2 %)")


def imports(record: Record) -> None:
    marks = {
        "import proximo": (["-c", "import proximo"], 2.0),
        "import proximo; proximo.train (torch with it)": (["-c", "import proximo; proximo.train"], float("nan")),
        "proximo --help": (["-m", "proximo.cli.main", "--help"], 0.5),
    }
    for name, (arguments, mark) in marks.items():
        times = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            times.append(time.perf_counter() - start)
        record.known[name] = times
        print(f"{name}: median {statistics.median(times):.2f} s of 5 (mark {mark})")


SECTIONS = {f.__name__: f for f in (throughput, cartpole, cheetah, rl_games, memory, imports)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all if none is given"
    )
    parser.add_argument("--out", type=Path, help="file for the results; a temporary one if not given")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        name, *arguments = asked.worker
        print(json.dumps(WORKERS[name](*map(int, arguments))))
        return
    if unknown := set(asked.sections) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    with tempfile.TemporaryDirectory() as folder:
        record = Record((asked.out or Path(folder) / "results.jsonl").resolve())
        print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
        for name in asked.sections or SECTIONS:
            print(f"\n## {name}", flush=True)
            SECTIONS[name](record)


if __name__ == "__main__":
    main()
