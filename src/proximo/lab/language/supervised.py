"""Supervised fine-tuning in memory, of the model that PPO starts from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from proximo.lab.language.gradients import relative_variance
from proximo.lab.language.runs import Task
from proximo.language.config import SFTConfig
from proximo.language.data.dataset import load_examples
from proximo.language.supervised.sft import SFTTraining


@dataclass(frozen=True)
class Course:
    """What is followed over a training, where higher is better, and the relative variance of its first gradient."""

    values: list[float]
    spread: float


def fine_tuned(task: Task, *, seed: int, steps: int, batch: int, learning_rate: float, batches: int) -> Course:
    """Fine-tune on the task's good responses, and follow the log-likelihood of each batch, nats per token.

    Args:
        task: on what; its upper layers are trained, as many as PPO trains.
        seed: of the order of the rows.
        steps: gradient steps.
        batch: responses per step.
        learning_rate: constant.
        batches: over which the gradient's variance is taken, before the first step.
    """
    model, tokenizer, _, _ = task.loaded()
    examples = load_examples(task.good, tokenizer, token_limit=40, context=None).items
    config = SFTConfig(
        seed=seed,
        steps=steps,
        batch=batch,
        learning_rate=learning_rate,
        schedule="constant",
        warmup=0.0,
        freeze=task.freeze,
    )
    training = SFTTraining(config, model.train(False), tokenizer, examples)
    spread = relative_variance(torch.stack([_gradient(training) for _ in range(batches)]))
    training.optimizer.zero_grad()
    return Course([-training.step(i / steps)["loss"] for i in range(steps)], spread)


def _gradient(training: SFTTraining) -> Tensor:
    """Of one new batch; nothing is learnt from it."""
    training.optimizer.zero_grad()
    training.backward([training.examples[i] for i in next(training.batches)])
    return torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None])
