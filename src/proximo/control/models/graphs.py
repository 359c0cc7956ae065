"""Where a policy acts and learns by CUDA graphs, and why not where it does not."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proximo.algorithms.ppo import PPO
from proximo.control.config import TrainConfig
from proximo.control.models.policy import ControlPolicy
from proximo.core.batch import Action
from proximo.core.updates.graphs import Graphs, Replayed, Tensors
from proximo.errors import UserError


def graphs_of(config: TrainConfig, policy: ControlPolicy, algorithm: PPO, *, alone: bool, others: bool) -> Graphs:
    """What the settings ask for, and allow.

    Args:
        config: of the run.
        policy: on its device.
        algorithm: that learns.
        alone: whether one process trains.
        others: whether others act too: a teacher, or opponents.

    Raises:
        UserError: graphs are asked for where there can be none.
    """
    against = "as asked" if config.cuda_graphs == "off" else _against(config, policy, algorithm, alone, others)
    if against and config.cuda_graphs == "on":
        raise UserError(f"cuda_graphs = on, but {against}: set it to auto or off")
    return Graphs(off=against, asked=config.cuda_graphs == "on")


def _against(config: TrainConfig, policy: ControlPolicy, algorithm: PPO, alone: bool, others: bool) -> str:
    """The first thing that forbids graphs; empty where nothing does."""
    reasons = {
        "the networks are on the CPU": next(policy.parameters()).device.type != "cuda",
        "a memory cuts its sequences by what it sees": policy.memory_size > 0,
        "a network of your own may branch by what it sees": bool(config.network.custom or config.network.encoders),
        "an algorithm of your own has its own loss": type(algorithm).loss is not PPO.loss,
        "a symmetry joins the update": config.symmetry.augmentation or config.symmetry.mirror_loss > 0,
        "noise of several steps is drawn beside the policy": policy.noise.kind == "gsde",
        "a teacher or opponents act too": others,
        "several ranks share the update": not alone,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class GraphedActor:
    """Acts as its policy does, by replaying; an `Actor` of `control.training.rollout`.

    Args:
        policy: that acts; its parameters stay where they are.
        graphs: how it is recorded.
        generator: of its noise.
    """

    def __init__(self, policy: ControlPolicy, graphs: Graphs, generator: torch.Generator) -> None:
        self._policy, self._generator = policy, generator
        self.replayed = Replayed(self._function, graphs.recorded, generator)

    def _function(self, inputs: Tensors) -> Tensors:
        told = self._policy.act(inputs, generator=self._generator)
        assert told.log_prob is not None
        value = {} if told.value is None else {"value": told.value}
        return {"action": told.action, "log_prob": told.log_prob, **value}

    @torch.no_grad()
    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: Any = None,
        *,
        generator: torch.Generator | None = None,
        noise: Any = None,
    ) -> Action:
        """As `ControlPolicy.act`."""
        exact = any(x.dtype == torch.float64 for x in inputs.values())  # read by a branch, see `_normalized`
        if exact or memory is not None or noise is not None or generator is not self._generator:
            return self._policy.act(inputs, memory, generator=generator, noise=noise)
        told = self.replayed(inputs)
        return Action(told["action"], told["log_prob"], told.get("value"))

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """As `ControlPolicy.log_prob`."""
        return self._policy.log_prob(output, action)

    def value(self, inputs: Mapping[str, Tensor], memory: Any = None) -> Tensor:
        """As `ControlPolicy.value`."""
        return self._policy.value(inputs, memory)
