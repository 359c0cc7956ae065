"""Environments that cannot give their state are brought back to it: the same seeds, then the same actions."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proximo.control.training.rollout import Collector
from proximo.control.training.self_play import SelfPlay


class ActionLog:
    """Every action since the environments last started anew, and what they showed after the last one.

    The policy is not asked again: a few bytes for each step bring any environment back that is deterministic under its
    seed. Whether it is one shows when it is brought back.

    Args:
        self_play: opponents, whose moves are repeated too; None where there are none.
    """

    def __init__(self, self_play: SelfPlay | None = None) -> None:
        self._self_play = self_play
        self.restarted_at = 0
        """The iteration whose seeds the environments have."""
        self._actions: list[Tensor] = []
        self._inputs: dict[str, Tensor] = {}
        self._memory: Tensor | None = None

    def restart(self, iteration: int, collector: Collector) -> None:
        """The environments have just started anew."""
        self.restarted_at, self._actions = iteration, []
        self.look(collector)

    def record(self, actions: Tensor, collector: Collector) -> None:
        """A rollout's actions `[T, N, width]` were taken; its buffer is copied, for it is used again."""
        self._actions.append(actions.to("cpu", copy=True))
        self.look(collector)

    def look(self, collector: Collector) -> None:
        """Note what the policy sees next."""
        self._inputs, self._memory = dict(collector.inputs), collector.memory
        if self._self_play:
            self._self_play.settle()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """For a checkpoint."""
        tensors = {f"inputs/{name}": x for name, x in self._inputs.items()}
        if self._memory is not None:
            tensors["memory"] = self._memory
        if self._actions:
            tensors["actions"] = torch.cat(self._actions)
        return tensors, {"restarted_at": self.restarted_at}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.restarted_at = int(state["restarted_at"])
        self._actions = [tensors["actions"]] if "actions" in tensors else []
        self._inputs = {name.removeprefix("inputs/"): x for name, x in tensors.items() if name.startswith("inputs/")}
        self._memory = tensors.get("memory")

    @property
    def steps(self) -> int:
        """Steps that `bring_back` takes, reset rows included."""
        return sum(actions.shape[0] * actions.shape[1] for actions in self._actions)

    def bring_back(self, collector: Collector) -> list[str]:
        """Take all actions again in environments that have just started with the seeds of `restarted_at`.

        Returns:
            Names of the policy's inputs that are not what they were; none if the environments are where they were.
        """
        seen = self._inputs
        memory = None if self._memory is None else self._memory.to(collector.device)
        for actions in self._actions:
            collector.repeat(actions, memory)
        if self._self_play:
            self._self_play.caught_up()
        now = {name: x.cpu() for name, x in collector.inputs.items()}
        return sorted(
            name
            for name in seen.keys() | now.keys()
            if name not in seen or name not in now or not torch.equal(seen[name].cpu(), now[name])
        )
