"""Proximo and rsl_rl 5.5.1 on the same environment of tensors, with the same dict of settings, in turn.

    python benchmarks/control_tensors.py                        # 512 and 4,096 copies on the CPU
    python benchmarks/control_tensors.py --device cuda          # the same where there is a GPU
    python benchmarks/control_tensors.py --copies 512 --pairs 3 --threads 1

rsl_rl is no dependency of Proximo's: `pip install --no-deps rsl-rl-lib==5.5.1 tensordict==0.15.3 pyvers GitPython gitdb
smmap` in a virtual environment that has Proximo. Each measurement is a process of its own, and those of the two take
turns; only the ratio of a pair means something on a machine that others share. Proximo runs through
`proximo.compat.rsl_rl.OnPolicyRunner`, with all that it does beside (finite checks, metrics, updates kept for a
replay); rsl_rl without a log folder, hence without writing anything.

The environment is a robot with 12 joints on a plane, `Joints`: a toy whose physics costs a few percent of a step, as
that of a GPU simulator does not; what is compared is what the two libraries add to it.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise

import torch

SIZES = {"hidden_dims": [512, 256, 128], "activation": "elu", "obs_normalization": True}
LENGTH = 24  # steps of a rollout
WARM_UP = 2  # iterations that are not counted


class Joints:
    """Motors with damping that push a body along; it is to go as fast as it is told, and falls where it tilts too far.

    Observed: angles, speeds, the last action (12 each), the body's tilt and speed (3 + 3) and the command (3): 45
    numbers, group `policy`. An episode is cut after 1,000 steps; one that ends is reset in the same step.
    """

    num_actions, max_episode_length, cfg = 12, 1000, {}

    def __init__(self, copies: int, device: str) -> None:
        self.num_envs, self.device = copies, device
        draw = torch.Generator().manual_seed(0)
        self.gait = (torch.randn(12, 6, generator=draw) / math.sqrt(12)).to(device)
        self.state = torch.zeros(copies, 45, device=device)
        self.taken, self.marks = 0, []
        self.episode_length_buf = torch.zeros(copies, dtype=torch.long, device=device)
        self._start(torch.ones(copies, dtype=torch.bool, device=device))

    def _start(self, rows: torch.Tensor) -> None:
        fresh = torch.zeros_like(self.state).uniform_(-0.1, 0.1)
        fresh[:, 42:] *= 10.0
        self.state = torch.where(rows.unsqueeze(1), fresh, self.state)
        self.episode_length_buf = torch.where(rows, 0, self.episode_length_buf)

    def _mark(self) -> None:
        """Note the clocks at the end of each rollout: the same place in both libraries' iterations."""
        self.taken += 1
        if self.taken % LENGTH == 0:
            if self.state.is_cuda:
                torch.cuda.synchronize()
            self.marks.append((time.perf_counter(), time.process_time()))

    def get_observations(self):
        """What is seen, by group."""
        from tensordict import TensorDict

        return TensorDict({"policy": self.state}, batch_size=[self.num_envs], device=self.device)

    def step(self, actions):
        """As rsl_rl's `VecEnv`."""
        angle, speed, _, tilt, pace, goal = self.state.split([12, 12, 12, 3, 3, 3], 1)
        action = actions.clamp(-1.0, 1.0)
        for _ in range(4):  # substeps of a semi-implicit Euler integration
            speed = speed + 0.05 * (20.0 * (0.5 * action - angle) - 2.0 * speed)
            angle = angle + 0.05 * speed
        push = (torch.sin(angle) * speed) @ self.gait
        tilt, pace = 0.98 * tilt + 0.02 * push[:, :3], 0.9 * pace + 0.1 * push[:, 3:]
        self.state = torch.cat([angle, speed, action, tilt, pace, goal], 1)
        self.episode_length_buf = self.episode_length_buf + 1
        reward = torch.exp(-4.0 * (pace - goal).square().sum(1)) - 0.01 * action.square().sum(1)
        cut = self.episode_length_buf >= self.max_episode_length
        over = (tilt.square().sum(1) > 0.25) | cut
        self._start(over)
        self._mark()
        return self.get_observations(), reward, over.long(), {"time_outs": cut.float()}


def settings() -> dict:
    """The runner's dict, with the numbers of rsl_rl's own defaults."""
    noise = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "scalar"}
    algorithm = {
        "class_name": "PPO",
        "num_learning_epochs": 5,
        "num_mini_batches": 4,
        "clip_param": 0.2,
        "gamma": 0.99,
        "lam": 0.95,
        "value_loss_coef": 1.0,
        "entropy_coef": 0.005,
        "learning_rate": 1e-3,
        "max_grad_norm": 1.0,
        "use_clipped_value_loss": True,
        "schedule": "adaptive",
        "desired_kl": 0.01,
    }
    model = {"class_name": "MLPModel", **SIZES}
    return {
        "num_steps_per_env": LENGTH,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "algorithm": algorithm,
        "actor": {**model, "distribution_cfg": noise},
        "critic": dict(model),
    }


def of_rsl_rl(env: Joints, iterations: int) -> list[tuple[float, float]]:
    """Train; seconds that each iteration takes to collect and to learn, as the library says itself."""
    from rsl_rl.runners import OnPolicyRunner

    runner, parts = OnPolicyRunner(env, settings(), None, env.device), []
    runner.logger.log = lambda **told: parts.append((told["collect_time"], told["learn_time"]))
    runner.learn(iterations)
    return parts


def of_proximo(env: Joints, iterations: int) -> list[tuple[float, float]]:
    """The same."""
    import proximo
    from proximo.compat.rsl_rl import OnPolicyRunner

    with tempfile.TemporaryDirectory() as folder:
        OnPolicyRunner(env, settings(), folder, env.device).learn(iterations)
        rows = proximo.metrics(folder)
    return [(row["seconds/environment"] + row["seconds/policy"], row["seconds/update"]) for row in rows]


WORKERS = {"rsl_rl": of_rsl_rl, "proximo": of_proximo}


def work(name: str, copies: int, device: str, iterations: int) -> dict:
    """Steps per second, and seconds of an iteration; medians over the iterations after the warm-up."""
    torch.manual_seed(0)
    env = Joints(copies, device)
    parts = WORKERS[name](env, iterations + WARM_UP)[-iterations:]
    marks = env.marks[-iterations - 1 :]
    wall, cpu = (statistics.median(b[i] - a[i] for a, b in pairwise(marks)) for i in (0, 1))
    collect, update = (statistics.median(part[i] for part in parts) for i in (0, 1))
    return {"steps_per_second": copies * LENGTH / wall, "cpu": cpu, "collect": collect, "update": update}


def measured(name: str, copies: int, asked: argparse.Namespace) -> dict:
    """What a process of its own measures."""
    command = [sys.executable, __file__, "--worker", name, str(copies), asked.device, str(asked.iterations)]
    threads = {"OMP_NUM_THREADS": str(asked.threads)} if asked.threads else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **threads})
    if done.returncode:
        sys.exit(f"{name} with {copies} copies failed: {(done.stderr or 'no output').strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(copies: int, asked: argparse.Namespace) -> None:
    """Pairs, each measured one after the other, the first of a pair in turn."""
    pairs = []
    for i in range(asked.pairs):
        order = list(WORKERS) if i % 2 else list(reversed(WORKERS))
        pair = {name: measured(name, copies, asked) for name in order}
        pairs.append(pair)
        print(json.dumps({"copies": copies, "pair": i, **pair}), flush=True)
    for name in WORKERS:
        speed, collect, update = (
            statistics.median(pair[name][part] for pair in pairs) for part in ("steps_per_second", "collect", "update")
        )
        print(f"{name}: {speed:,.0f} steps/s; of an iteration {collect:.3f} s collect and {update:.3f} s learn")
    for part in ("steps_per_second", "cpu", "collect", "update"):
        ratios = [pair["proximo"][part] / pair["rsl_rl"][part] for pair in pairs]
        if part != "steps_per_second":
            ratios = [1.0 / ratio for ratio in ratios]
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"{copies:,} copies, {part}: Proximo {statistics.median(ratios):.2f} x as fast ({each})", flush=True)


def main() -> None:
    """See the file's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--copies", type=int, nargs="+", default=[512, 4096])
    parser.add_argument("--iterations", type=int, default=5, help="that are counted, in each measurement")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--threads", type=int, help="of OpenMP and BLAS; each library's own choice if not given")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.worker:
        name, copies, device, iterations = asked.worker
        print(json.dumps(work(name, int(copies), device, int(iterations))))
        return
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no CUDA device here")
    where = torch.cuda.get_device_name() if asked.device == "cuda" else f"{os.cpu_count()} cores"
    print(f"{where}, torch {torch.__version__}, threads {asked.threads or 'as each chooses'}")
    for copies in asked.copies:
        compare(copies, asked)


if __name__ == "__main__":
    main()
