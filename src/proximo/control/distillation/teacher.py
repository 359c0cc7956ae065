"""The policy that a student learns from: what it sees of the student's environments, and what it would do there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control.loading import load_policy
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.groups import TEACHER
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError


class Teacher:
    """A trained policy that stands still.

    Args:
        policy: on the student's device.
        sees: which parts of the student's environments are its observation, in its order.
    """

    def __init__(self, policy: ControlPolicy, sees: ObservationSpec) -> None:
        self.policy, self.sees = policy.eval().requires_grad_(False), sees

    @classmethod
    def of(cls, run: str, sees: ObservationSpec, student: ControlPolicy, names: tuple[str, ...]) -> Teacher:
        """The last policy of a run, for a student that is there already.

        Args:
            run: folder of the teacher's run.
            sees: the parts that it is shown.
            student: whose actions have to be its own.
            names: of the parts, as they were given.

        Raises:
            UserError: there is no such run, or its policy does not fit.
        """
        policy = load_policy(Path(run))
        own = policy.observations
        if (own.vector_size, list(own.images.values())) != (sees.vector_size, list(sees.images.values())):
            said = f"{', '.join(names)} of" if names else "all that is seen of"
            raise UserError(
                f"the teacher {run} reads {_size(own)}, and {said} the student's environment is {_size(sees)}: name "
                "the parts that it was trained on with observations.teacher"
            )
        if policy.actions != student.actions:
            raise UserError(
                f"the teacher {run} acts by {policy.actions}, and the student's environment takes {student.actions}: "
                "give an environment with the same actions"
            )
        if policy.frame_stack != student.frame_stack:
            raise UserError(f"the teacher {run} has frame_stack = {policy.frame_stack}: give the student the same")
        if policy.wrappers:
            learnt = ", ".join(sorted(policy.wrappers))
            raise UserError(
                f"the teacher {run} was trained within wrappers that learn ({learnt}), which a student does not "
                "share: train it with normalizers.observations instead"
            )
        if getattr(policy.network, "gives_distribution", False):
            raise UserError(f"the network of the teacher {run} gives distributions: let it give outputs instead")
        return cls(policy.to(next(student.parameters()).device), sees)

    def encode(self, observation: Any) -> dict[str, np.ndarray]:
        """What it reads of a batch of observations, named `teacher.*`."""
        encoded = self.sees.encode(observation, self.policy.exact_observations)
        return {TEACHER + name: x for name, x in encoded.items() if name != "mask"}

    @torch.no_grad()
    def answer(self, inputs: Mapping[str, Tensor], memory: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        """What it would do in `[N]` states: the most probable action, its `ControlPolicy.label`, and its memory.

        Args:
            inputs: of the student's collector, the teacher's and a mask among them.
            memory: `[N, memory_size]`, zero where episodes start; None without.
        """
        own = {name.removeprefix(TEACHER): x for name, x in inputs.items() if name.startswith(TEACHER)}
        # Images may have other names there.
        names = dict(zip(self.sees.images, self.policy.observations.images, strict=True))
        own = {names.get(name, name): x for name, x in own.items()}
        if (mask := inputs.get("mask")) is not None:
            own["mask"] = mask
        outputs, memory = self.policy.outputs(own, memory)
        return self.policy.distribution(outputs, mask).mode(), self.policy.label(outputs), memory


def _size(spec: ObservationSpec) -> str:
    images = [f"an image {shape}" for shape in spec.images.values()]
    return " and ".join([*([f"{spec.vector_size} numbers"] if spec.vector_size else []), *images])
