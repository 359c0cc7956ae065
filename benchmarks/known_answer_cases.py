"""Runs and environments with one planted mistake each, and healthy ones: what `proximo doctor` is asked about."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import broken_environments as broken
import known_answer_faults as faults

from proximo.control.config import TrainConfig
from proximo.control.presets import configure
from proximo.control.run import run_training
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping


@dataclass(frozen=True)
class Case:
    """One thing to diagnose."""

    name: str
    planted: str
    """In words; empty for a healthy one."""
    codes: tuple[str, ...]
    """The findings that name the planted cause."""
    make: Callable[[Path, int], None] | None = None
    """Trains into a folder with a seed; None where an environment is examined."""
    environment: Any = None
    """What is examined."""
    fast: bool = False
    """Whether it is in the test's subset."""


def control(
    task: str | Callable[[], Any],
    steps: int,
    *,
    base: str = "",
    fault: Callable[[], AbstractContextManager] = nullcontext,
    preset: str = "tuned",
    again: int = 0,
    **changes: Any,
) -> Callable[[Path, int], None]:
    """A run of `task` with the preset of `base` (its own if it is a name), changed, while `fault` is in force."""

    def make(folder: Path, seed: int) -> None:
        seed += 1000 * again
        name = task if isinstance(task, str) else f"{task.__module__}:{task.__name__}"
        config, _ = configure(base or name, preset)
        settings = {"environment": name, "steps": steps, "seed": seed, "run": str(folder), "episodes": 1} | changes
        config = from_mapping(TrainConfig, settings, where="the case", base=replace(config))
        with fault():
            try:
                run_training(config, None if isinstance(task, str) else task, "quiet")
            except UserError as error:
                (folder / "stopped.txt").write_text(str(error))

    return make


def language(
    reward: str, responses: int = 64 * 40, *, ends: bool = True, temperature: float | None = None, **changes: Any
) -> Callable[[Path, int], None]:
    """A run of the tiny model with a reward of `tiny_language`; the sampler's temperature may be another."""

    def make(folder: Path, seed: int) -> None:
        import tiny_language

        from proximo.language.ppo.run import run_ppo
        from proximo.language.ppo.training import PPOTraining
        from proximo.language.ppo_config import PPOConfig

        model = tiny_language.tiny_policy(folder.parent / f"{folder.name}-model", seed=seed, ends=ends)
        settings = {
            "policy": str(model),
            "prompts": str(model / "prompts.jsonl"),
            "rewards": {f"tiny_language:{reward}": 1.0},
            "run": str(folder),
            "seed": seed,
            "responses": responses,
            "batch": 64,
            "response_limit": 24,
            "learning_rate": "2e-3 -> 0",
            "missing_eos_floor": "none",
            "device": "cpu",
            "checkpoint_every": 10**6,
        } | changes
        config = from_mapping(PPOConfig, settings, where="the case")
        whole = PPOTraining.sample

        def sample(self: PPOTraining, *arguments: Any) -> Any:
            self.parameters = replace(self.parameters, temperature=temperature)
            return whole(self, *arguments)

        with patch.object(PPOTraining, "sample", whole if temperature is None else sample):
            try:
                run_ppo(config, mode="quiet", preflight="off")  # which would stop some of these runs
            except UserError as error:
                (folder / "stopped.txt").write_text(str(error))

    return make


_UNSCALED = {"observations": False, "rewards": "off"}

BROKEN = [
    Case(
        "learning-rate-x100",
        "learning rate × 100 (CartPole-v1)",
        ("P020",),
        control("CartPole-v1", 40_000, learning_rate=0.2),
        fast=True,
    ),
    Case(
        "learning-rate-x100-cheetah",
        "learning rate × 100 (HalfCheetah-v5)",
        ("P020",),
        control("HalfCheetah-v5", 100_000, learning_rate=0.1),
    ),
    Case(
        "learning-rate-x100-pendulum",
        "learning rate × 100 (Pendulum-v1)",
        ("P020",),
        control("Pendulum-v1", 60_000, learning_rate=0.1),
    ),
    Case(
        "learning-rate-per-1000",
        "learning rate / 1000 (CartPole-v1)",
        ("P022",),
        control("CartPole-v1", 40_000, learning_rate=2e-6),
        fast=True,
    ),
    Case(
        "learning-rate-per-1000-cheetah",
        "learning rate / 1000 (HalfCheetah-v5)",
        ("P022",),
        control("HalfCheetah-v5", 100_000, learning_rate=1e-6),
    ),
    Case(
        "no-clip",
        "no clip, 30 epochs (CartPole-v1)",
        ("P021",),
        control("CartPole-v1", 30_000, update={"clip": "none", "epochs": 30}),
    ),
    Case(
        "no-clip-pendulum", "no clip (Pendulum-v1)", ("P021",), control("Pendulum-v1", 60_000, update={"clip": "none"})
    ),
    Case(
        "huge-epochs",
        "200 epochs (Pendulum-v1)",
        ("P024",),
        control("Pendulum-v1", 30_000, update={"epochs": 200, "recompute_advantages": False}),
    ),
    Case(
        "huge-epochs-cheetah",
        "100 epochs, no KL limit (HalfCheetah-v5)",
        ("P024",),
        control("HalfCheetah-v5", 40_000, update={"epochs": 100, "target_kl": "none"}),
    ),
    Case("gamma", "γ = 0.2 (LunarLander-v3)", ("P033",), control("LunarLander-v3", 80_000, gamma=0.2)),
    Case("gamma-cartpole", "γ = 0.5 (CartPole-v1)", ("P033",), control("CartPole-v1", 40_000, gamma=0.5), fast=True),
    Case(
        "frozen-normalizer",
        "normaliser takes nothing in (HalfCheetah-v5)",
        ("P011",),
        control("HalfCheetah-v5", 40_000, fault=faults.frozen_normalizer),
        fast=True,
    ),
    Case(
        "moving-rewards",
        "reward normaliser moves inside the iteration (Hopper-v5)",
        ("P010",),
        control("Hopper-v5", 30_000, fault=faults.moving_rewards),
    ),
    Case(
        "moving-observations",
        "observation normaliser moves inside the iteration (Hopper-v5)",
        ("P010", "P012"),
        control("Hopper-v5", 30_000, fault=faults.moving_observations),
        fast=True,
    ),
    Case(
        "no-final-observation",
        "time limits bootstrapped from the next episode (Pendulum-v1)",
        ("P014",),
        control("Pendulum-v1", 30_000, fault=faults.no_final_observations, backend="gymnasium", environments=4),
    ),
    Case(
        "faked-final-observation",
        "the final observation is the next first one (Pendulum-v1)",
        ("P014",),
        control("Pendulum-v1", 30_000, fault=faults.faked_final_observations, backend="gymnasium", environments=4),
    ),
    Case(
        "reset-rows",
        "rows that report a reset are learnt from (CartPole-v1)",
        ("P013",),
        control("CartPole-v1", 20_000, fault=faults.reset_rows_count),
    ),
    Case(
        "time-limit-as-end",
        "time limit reported as a terminal state (Pendulum-v1)",
        ("P017",),
        control(broken.lying, 60_000, base="Pendulum-v1"),
    ),
    Case(
        "flipped-reward",
        "reward with the wrong sign (CartPole-v1)",
        ("P042",),
        control(broken.flipped, 40_000, base="CartPole-v1"),
        fast=True,
    ),
    Case(
        "flipped-reward-pole",
        "reward with the wrong sign (InvertedPendulum-v5)",
        ("P042",),
        control(
            broken.scaled, 60_000, base="InvertedPendulum-v5", options={"task": "InvertedPendulum-v5", "reward": -1.0}
        ),
    ),
    Case(
        "turned-reward",
        "a wrapper turns the reward's sign (Pendulum-v1)",
        ("P064",),
        control(broken.scaled, 60_000, base="Pendulum-v1", options={"task": "Pendulum-v1", "reward": -1.0}),
    ),
    Case(
        "no-reward",
        "every reward is 0 (CartPole-v1)",
        ("P041",),
        control(broken.unrewarded, 20_000, base="CartPole-v1"),
        fast=True,
    ),
    Case(
        "reward-x10000",
        "rewards × 10,000, not normalised (Pendulum-v1)",
        ("P031",),
        control(broken.scaled, 60_000, base="Pendulum-v1", normalizers={"observations": True, "rewards": "off"}),
    ),
    Case(
        "giant-observations",
        "observations × 10,000, not normalised (CartPole-v1)",
        ("P040",),
        control(
            broken.scaled,
            30_000,
            base="CartPole-v1",
            normalizers=_UNSCALED,
            options={"task": "CartPole-v1", "reward": 1.0, "observation": 1e4},
        ),
        fast=True,
    ),
    Case(
        "value-coefficient-0",
        "value coefficient 0 (Pendulum-v1)",
        ("P032",),
        control("Pendulum-v1", 60_000, update={"value_coefficient": 0.0}),
    ),
    Case(
        "value-coefficient-0-lander",
        "value coefficient 0 (LunarLander-v3)",
        ("P032",),
        control("LunarLander-v3", 60_000, update={"value_coefficient": 0.0}),
    ),
    Case(
        "entropy-collapse",
        "entropy is punished (LunarLander-v3)",
        ("P025",),
        control("LunarLander-v3", 100_000, update={"entropy_coefficient": -0.3}),
    ),
    Case(
        "no-exploration",
        "actions without noise (HalfCheetah-v5)",
        ("P025",),
        control("HalfCheetah-v5", 60_000, network={"log_std": -4.5}),
    ),
    Case(
        "entropy-bonus",
        "entropy bonus 1 (Pendulum-v1)",
        ("P026",),
        control("Pendulum-v1", 60_000, update={"entropy_coefficient": 1.0}),
    ),
    Case(
        "std-at-bound",
        "a bonus holds the deviation at its upper bound (Pendulum-v1)",
        ("P028",),
        control("Pendulum-v1", 60_000, update={"entropy_coefficient": 1.0}, network={"log_std_range": (-5.0, 0.0)}),
    ),
    Case(
        "never-ends",
        "an environment that never ends (Pendulum-v1)",
        ("P044",),
        control(broken.endless, 40_000, base="Pendulum-v1"),
    ),
    Case(
        "memory",
        "the environment keeps 20 kB a step (CartPole-v1)",
        ("P045",),
        control(broken.hoarding, 30_000, base="CartPole-v1"),
    ),
    Case(
        "no-kl-price",
        "β = 0, a reward that counts one word",
        ("P050",),
        language("one_word", kl={"coefficient": 0.0}),
        fast=True,
    ),
    Case(
        "no-eos",
        "a model that never ends its responses",
        ("P052",),
        language("pleasant", 64 * 10, ends=False),
        fast=True,
    ),
    Case("length", "a reward that likes length", ("P053",), language("long", response_limit=48)),
    Case(
        "temperature",
        "sampled at 0.6, trained at 1",
        ("P016",),
        language("pleasant", 64 * 10, temperature=0.6, old_log_probs="rescore"),
        fast=True,
    ),
    Case(
        "indifferent-reward",
        "a reward that is the same for all",
        ("P055",),
        language("indifferent", 64 * 10),
        fast=True,
    ),
    Case(
        "too-hard",
        "a task that is solved once in 50 times, by chance",
        ("P056",),
        language("lucky", 64 * 15),
    ),
    Case(
        "learning-rate-x100-language",
        "learning rate × 50",
        ("P020",),
        language("pleasant", 64 * 20, learning_rate=0.1, update={"target_kl": "none"}),
    ),
]

HEALTHY = [
    *(Case(f"cartpole-{s}", "", (), control("CartPole-v1", 60_000, again=s), fast=s == 0) for s in (0, 1)),
    Case("cartpole-paper", "", (), control("CartPole-v1", 60_000, preset="paper")),
    *(Case(f"pendulum-{s}", "", (), control("Pendulum-v1", 150_000, again=s)) for s in (0, 1)),
    *(Case(f"cheetah-{s}", "", (), control("HalfCheetah-v5", 150_000, again=s)) for s in (0, 1)),
    Case("cheetah-paper", "", (), control("HalfCheetah-v5", 100_000, preset="paper")),
    Case("lander", "", (), control("LunarLander-v3", 150_000)),
    Case("acrobot", "", (), control("Acrobot-v1", 100_000)),
    Case("hopper", "", (), control("Hopper-v5", 150_000)),
    Case("walker", "", (), control("Walker2d-v5", 100_000)),
    Case("inverted-pendulum", "", (), control("InvertedPendulum-v5", 100_000)),
    Case("double-pendulum", "", (), control("InvertedDoublePendulum-v5", 100_000)),
    Case("swimmer", "", (), control("Swimmer-v5", 100_000)),
    Case("language-full", "", (), language("pleasant", update={"target_kl": 0.05}), fast=True),
    Case("language-lora", "", (), language("pleasant", sharing={"mode": "lora", "lora_rank": 8})),
    Case("language-top", "", (), language("pleasant", sharing={"mode": "top_layers", "top_layers": 1})),
    Case("language-adaptive", "", (), language("pleasant", kl={"coefficient": 0.05, "target": 3.0})),
]

ENVIRONMENTS = [
    Case("env-uncountable", "random numbers from no seed", ("E005",), environment=broken.uncountable),
    Case("env-endless", "never ends", ("E001",), environment=broken.endless),
    Case(
        "env-constant",
        "an observation dimension never changes",
        ("E003",),
        environment=broken.constant_dimension,
    ),
    Case("env-exploding", "an observation dimension explodes", ("E004",), environment=broken.exploding),
    Case("env-leaking", "state survives a reset", ("E006",), environment=broken.leaking),
    Case("env-wide", "action bounds × 1,000", ("E007",), environment=broken.wide),
    Case("env-reward", "rewards × 10,000", ("E002",), environment=broken.scaled),
    Case("env-time-limit", "time limit reported as a terminal state", ("E008",), environment=broken.lying),
    Case("env-slow", "50 steps a second", ("E009",), environment=broken.slow),
    Case("env-no-reward", "every reward is 0", ("E010",), environment=broken.unrewarded),
    Case("env-decided", "ends at its first step", ("E011",), environment=broken.decided),
]

HEALTHY_ENVIRONMENTS = [
    Case(f"env-{name}", "", (), environment=name)
    for name in (
        "CartPole-v1",
        "Pendulum-v1",
        "Acrobot-v1",
        "LunarLander-v3",
        "HalfCheetah-v5",
        "Hopper-v5",
        "MountainCar-v0",
    )
]
