"""How much one batch's gradient says of the next one's."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from proximo.core.updates.update import NOISE, normalized
from proximo.lab.language.runs import Task
from proximo.language.ppo.loading import make_training
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.session.session import load_into
from proximo.runs.storage.checkpoint import latest_checkpoint


def spread_of_gradients(task: Task, run: Path, batches: int, *, at_its_start: bool = False) -> float:
    """Variance of a policy's gradient over batches of a run, in units of its mean's squared length.

    Batches are drawn and judged by the policy and critic as the run left them, or as they were before its first step,
    and nothing is learnt in between.

    Args:
        task: what the run was trained on.
        run: its folder.
        batches: how many, at least 2.
        at_its_start: whether it is of the policy before the first step.
    """
    config = from_mapping(PPOConfig, read_toml(run / "config.toml"), where=str(run))
    training, _ = make_training(config, [task.loaded()[2]])
    path = latest_checkpoint(run / "checkpoints")
    assert path is not None, "a run that has ended has a checkpoint"
    if not at_its_start:
        load_into(training, path)
    return relative_variance(torch.stack([_gradient(training) for _ in range(batches)]))


def relative_variance(gradients: Tensor) -> float:
    """Trace of the covariance of vectors `[n, d]` over the squared length of their mean; at most about n.

    The mean holds noise of its own, a share 1 / n of the trace, which is left in it: taken off, what remains of a weak
    signal would be anything, below 0 too. So two numbers that are large are nearer to each other than they should be.
    """
    count, mean = len(gradients), gradients.double().mean(0)
    variance = float((gradients.double() - mean).square().sum()) / (count - 1)
    return variance / float(mean.square().sum())


def _gradient(training: PPOTraining) -> Tensor:
    """Of the policy's part of the loss over one new batch; the critic's part is left out."""
    rollout = training.collect()
    batch = training.estimate(rollout)
    task = training.task(rollout, batch, 0.0)
    algorithm = training.algorithm
    if algorithm.critic:
        algorithm = replace(algorithm, value_coefficient=0.0)
    for over in ("batch", "minibatch"):
        batch = normalized(batch, replace(algorithm, minibatch_size=None), over, NOISE * task.reward_scale)
    training.optimizer.zero_grad()
    algorithm.gradient(task)(batch)
    return training.optimizer.gradient.clone()
