"""Rollouts of DAgger: the student acts, now and then its teacher, and the teacher says what it would have done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from proximo.control.distillation.teacher import Teacher
from proximo.control.environments.base import Observation
from proximo.control.environments.episodes import Episode
from proximo.control.models.policy import TAUGHT, ControlPolicy
from proximo.control.spaces.groups import TEACHER
from proximo.control.training.rollout import Collector, FinalObservation, Rollout
from proximo.core.batch import Action


class Mixed:
    """Acts by the student, or with probability `beta` by its teacher (Ross, Gordon & Bagnell 2011, algorithm 3.1).

    The memory is that of both, side by side.
    """

    def __init__(self, student: ControlPolicy, teacher: Teacher) -> None:
        self.student, self.teacher = student, teacher
        self.beta = 1.0

    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Action:
        """What is done; its log-prob is that of the student's own draw, and `output` holds that draw and the label.

        Arguments as `ControlPolicy.act`; `noise` is of the student.
        """
        size = self.student.memory_size
        own, others = (None, None) if memory is None else (memory[:, :size], memory[:, size:])
        seen = {name: x for name, x in inputs.items() if not name.startswith(TEACHER)}
        drawn = self.student.act(seen, own if size else None, generator=generator, noise=noise)
        right, label, after = self.teacher.answer(inputs, others if self.teacher.policy.memory_size else None)
        by_teacher = torch.rand(len(right), 1, generator=generator, device=right.device) < self.beta
        memories = [x for x in (drawn.memory, after) if x is not None]
        return Action(
            torch.where(by_teacher, right, drawn.action),
            drawn.log_prob,
            drawn.value,
            torch.cat(memories, -1) if memories else None,
            torch.cat([drawn.action, label], -1),
        )

    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """Never asked for: `act` tells it.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError

    def value(self, inputs: Mapping[str, Tensor], memory: Tensor | None = None) -> Tensor:
        """The student's critic."""
        return self.student.value(inputs, memory)


class TaughtCollector(Collector):
    """A collector whose rollouts hold the student's own draws, and what the teacher says as the input `taught`."""

    actor: Mixed

    def restart(self, seeds: Sequence[int]) -> None:
        """See `Collector.restart`."""
        super().restart(seeds)
        starts = (p.initial_memory(self.environments.count) for p in (self.policy, self.actor.teacher.policy))
        memories = [x for x in starts if x is not None]
        self._memory = torch.cat(memories, -1) if memories else None

    def _encode(self, observation: Observation, mask: np.ndarray | None, rows: np.ndarray | None) -> dict[str, Tensor]:
        found = super()._encode(observation, mask, rows)
        shown = self.actor.teacher.encode(observation)
        for name, x in shown.items():
            array = np.array(x if rows is None else x[rows], order="C")
            found[name] = torch.from_numpy(array).to(self.device, non_blocking=True)
        return found

    def _rollout(self, before: Tensor | None, finals: list[FinalObservation], episodes: list[Episode]) -> Rollout:
        rollout = super()._rollout(before, finals, episodes)
        drawn, label = self._tensors["output"].split([self.policy.actions.width, self.policy.label_size], -1)
        return replace(
            rollout,
            inputs={**_own(rollout.inputs), TAUGHT: label},
            last_inputs=_own(rollout.last_inputs),
            last_memory=self._own_memory(rollout.last_memory),
            memory=self._own_memory(rollout.memory),
            action=drawn,
            executed=rollout.action,
            finals=[replace(x, inputs=_own(x.inputs), memory=self._own_memory(x.memory)) for x in finals],
        )

    def _own_memory(self, memory: Tensor | None) -> Tensor | None:
        size = self.policy.memory_size
        return None if memory is None or not size else memory[..., :size].contiguous()


def _own(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x for name, x in inputs.items() if not name.startswith(TEACHER)}
