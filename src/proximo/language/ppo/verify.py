"""Whether a language run goes on bit for bit, and if not, whether its rewards are to blame."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from proximo.language.compute.threads import free_threads
from proximo.language.ppo.run import make_training, run_ppo
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import RewardTerm
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.resume_check import Verification, in_new_processes, verify
from proximo.runs.session.opening import Call


def verify_language(config: PPOConfig, iterations: int, rewards: Sequence[RewardTerm] | None = None) -> Verification:
    """Train with `config` for twice as many iterations: through, stopped half-way, and killed.

    Each part is trained in a new process, but with reward terms that are made in Python.

    Args:
        config: of the run.
        iterations: before the stop, and as many after it.
        rewards: terms made in Python; those of `config.rewards` if None.

    Raises:
        UserError: the run can not be trained at all.
    """
    size = config.batch
    end = 2 * iterations * size
    # A time limit is no part of what can be repeated, nor is a budget that may be used up.
    short = replace(
        config,
        responses=max(config.responses, end + size),
        checkpoint_every=iterations * size,
        minutes=None,
        stop_at_peak=False,
        kl=replace(config.kl, budget=None),
        keep=2,
        threads=config.threads or free_threads(),  # one number for all parts, whatever else runs meanwhile
    )

    def train_here(folder: Path, stop_at: int) -> None:
        run_ppo(replace(short, run=str(folder)), mode="quiet", rewards=rewards, call=Call(stop_at), preflight="off")

    apart = rewards is None
    train = in_new_processes(f"{__name__}:train_part", short) if apart else train_here
    middle = iterations * size
    return verify(train, middle=middle, end=end, causes=lambda: _causes(short, rewards), new_processes=apart)


def train_part(file: str, folder: str, stop_at: str) -> None:
    """What a new process does: train in `folder` with the settings of `file`, up to `stop_at` responses."""
    config = from_mapping(PPOConfig, read_toml(Path(file)), where=file)
    run_ppo(replace(config, run=folder), mode="quiet", call=Call(int(stop_at)), preflight="off")


def _causes(config: PPOConfig, rewards: Sequence[RewardTerm] | None) -> list[str]:
    """What differs between two samplings with the same seed, and between two scorings of the same responses."""
    training, _ = make_training(config, rewards)
    rollouts = []
    for _ in range(2):
        training.remember()
        seen = training.collect()
        rollouts.append(seen)
        training.rewind()
    one, two = rollouts
    pairs = zip(one.texts.responses, two.texts.responses, strict=True)
    if other := [i for i, (a, b) in enumerate(pairs) if a != b]:
        return [f"sampling on {training.device.type} does not follow from the seed: response {other[0]} differs"]
    differing = [name for name in one.each if not _same(one.each[name], two.each[name])]
    return [f"reward {name} does not give the same responses the same score twice" for name in differing]


def _same(one: Tensor, two: Tensor) -> bool:
    """Also where a term applies to neither response."""
    return torch.equal(one.nan_to_num(torch.inf), two.nan_to_num(torch.inf))
