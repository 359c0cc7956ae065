"""Real simulators, each in a virtual environment of its own, against Proximo's adapters: are the ends the same ones?

Neither is a dependency of Proximo's, and each pins a MuJoCo of its own:

    python -m venv pg && pg/bin/pip install . playground==0.2.0 brax==0.14.2
    pg/bin/python benchmarks/real_simulators.py playground
    python -m venv mj && mj/bin/pip install . mjlab==1.6.0
    mj/bin/python benchmarks/real_simulators.py mjlab
    mj/bin/python benchmarks/real_simulators.py mjlab-train   # its own `train`, with the runner's class exchanged

Random actions are taken by the library's own wrapper and by Proximo's environments, and ends and rewards are compared;
then a short run is trained, whose metrics have to tell as many ends as a clock does.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

COUNT, LIMIT, STEPS, LENGTH, ITERATIONS = 16, 25, 120, 32, 4


def playground_task():
    """CartpoleBalance, cut after 25 steps."""
    from mujoco_playground import registry

    return registry.load("CartpoleBalance", config_overrides={"episode_length": LIMIT})


def of_playground(actions):
    """Rewards, ends and cuts `[T, N]` of brax's own wrappers (vmap, limit, reset by itself)."""
    import jax
    from mujoco_playground import wrapper

    # Not with full_reset, which forgets which ends were limits.
    env = wrapper.wrap_for_brax_training(playground_task(), episode_length=LIMIT)
    step, state = jax.jit(env.step), jax.jit(env.reset)(jax.random.split(jax.random.PRNGKey(0), COUNT))
    rows = []
    for action in actions:
        state = step(state, action)
        rows.append([np.asarray(x) for x in (state.reward, state.done, state.info["truncation"])])
    return [np.stack(column) for column in zip(*rows, strict=True)]


def mjlab_task(auto_reset=False):
    """Mjlab-Cartpole-Balance, cut after 25 steps, in rsl_rl's shape."""
    import mjlab.tasks  # noqa: F401
    from mjlab.envs import ManagerBasedRlEnv
    from mjlab.rl import RslRlVecEnvWrapper
    from mjlab.tasks.registry import load_env_cfg

    cfg = load_env_cfg("Mjlab-Cartpole-Balance")
    cfg.scene.num_envs, cfg.auto_reset, cfg.seed = COUNT, auto_reset, 0
    cfg.episode_length_s = LIMIT * cfg.sim.mujoco.timestep * cfg.decimation
    return RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg=cfg, device="cpu"))


def of_mjlab(actions):
    """Rewards, ends and cuts `[T, N]` of mjlab's own wrapper, which resets by itself."""
    import torch

    env, rows = mjlab_task(auto_reset=True), []
    for action in actions:
        _, reward, done, extras = env.step(torch.from_numpy(action))
        rows.append([reward.numpy().copy(), done.numpy().copy(), extras["time_outs"].numpy().copy()])
    env.close()
    return [np.stack(column) for column in zip(*rows, strict=True)]


SIMULATORS = {"playground": (playground_task, of_playground, "state"), "mjlab": (mjlab_task, of_mjlab, "actor")}


def of_proximo(make, actions):
    """The same of Proximo's environments, and how far final states are from the next episodes' first ones."""
    from proximo.control.environments import make_environments

    environments = make_environments(make, COUNT, observation_keys=("*",))
    print(f"backend {environments.backend}: {environments.observation_space}, {environments.action_space}")
    environments.reset(range(COUNT))
    steps = [environments.step(action) for action in actions]
    environments.close()
    apart = []
    for step in steps:
        for name in step.observation if isinstance(step.observation, dict) else [()]:
            final, first = (np.asarray(x[name]) for x in (step.final_observation, step.observation))
            apart.append(np.abs(final - first)[step.truncated].max(initial=0.0))
    columns = [np.stack([getattr(step, name) for step in steps]) for name in ("reward", "terminated", "truncated")]
    return columns, max(apart)


def trained(make, actor):
    """The ends that a short run's metrics tell, and its largest first-ratio deviation."""
    import proximo
    from proximo.runs.storage.metrics import read_metrics

    groups = {"observations": {"actor": (actor,), "critic": (actor,)}} if actor == "actor" else {}
    with tempfile.TemporaryDirectory() as folder:
        run = proximo.train(
            make,
            run=f"{folder}/run",
            steps=COUNT * LENGTH * ITERATIONS,
            environments=COUNT,
            rollout_length=LENGTH,
            update={"minibatch_size": COUNT * LENGTH // 4},
            episodes=1,
            normalizers={"observations": False, "rewards": "off"},  # or a first rollout is in no row of the metrics
            episode_limit=LIMIT + 1,
            progress="quiet",
            **groups,
        )
        rows = read_metrics(run.path / "metrics.jsonl")
    ends = [sum(row[name] for row in rows) for name in ("terminations", "truncations")]
    return ends, max(row["ratio_deviation"] for row in rows), {k: v for k, v in rows[-1].items() if "term/" in k}


def mjlab_train(iterations=3):
    """Mjlab's own command `train` on Cartpole-Balance, to its end, with Proximo's runner; whether its run is there."""
    from mjlab.scripts import train

    import proximo
    from proximo.compat.rsl_rl import OnPolicyRunner

    train.MjlabOnPolicyRunner = OnPolicyRunner  # the only line that differs
    with tempfile.TemporaryDirectory() as folder:
        options = {"env.scene.num-envs": COUNT, "agent.max-iterations": iterations, "gpu-ids": None, "log-root": folder}
        given = [word for name, x in options.items() for word in (f"--{name}", str(x))]
        sys.argv = ["train", "Mjlab-Cartpole-Balance", *given]
        started = time.perf_counter()
        train.main()
        seconds = time.perf_counter() - started
        found = sorted(Path(folder).glob("*/*"))
        rows = proximo.metrics(found[0] / "proximo")
        print(f"{found[0].name} holds {sorted(x.name for x in found[0].iterdir())}")
    terms = {name: round(x, 4) for name, x in rows[-1].items() if name.startswith("term/")}
    ratio = max(row["ratio_deviation"] for row in rows)
    print(f"{len(rows)} iterations of {COUNT} robots in {seconds:.0f} s; first ratio off by {ratio:.1e}; terms {terms}")
    return len(rows) == iterations and ratio < 1e-4


def main(name):
    """Compare one."""
    if name == "mjlab-train":
        return mjlab_train()
    make, reference, actor = SIMULATORS[name]
    started = time.perf_counter()
    width = {"playground": 1, "mjlab": 1}[name]
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, COUNT, width)).astype(np.float32)
    reward, done, cut = reference(actions)
    print(f"{name}'s own: {int((done != 0).sum())} ends, {int((cut != 0).sum())} of them time limits")
    (ours, over, truncated), apart = of_proximo(make, actions)
    print(f"Proximo: {int((over | truncated).sum())} ends, {int(truncated.sum())} of them time limits")
    same = np.array_equal(done != 0, over | truncated) and np.array_equal(cut != 0, truncated)
    print(f"in the same rows and steps: {same}; mean reward {reward.mean():.4f} and {ours.mean():.4f}")
    print(f"final states are up to {apart:.3g} from the next episodes' first ones")
    ends, ratio, terms = trained(make, actor)
    due = COUNT * (LENGTH * ITERATIONS // LIMIT)
    print(f"trained {ITERATIONS} iterations: {ends[1]} limits of {due} by the clock, {ends[0]} other ends")
    print(f"first ratio off by {ratio:.1e}; terms {terms}; {time.perf_counter() - started:.0f} s")
    return same and ends == [0, due]


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1]) else 1)
