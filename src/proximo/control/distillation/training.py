"""The training of a student: rollouts with its teacher beside it, and what a checkpoint has to hold of that one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from proximo.algorithms.distillation import Distillation
from proximo.control.config import TrainConfig
from proximo.control.distillation.collecting import Mixed, TaughtCollector
from proximo.control.distillation.teacher import Teacher
from proximo.control.environments.base import VectorEnvironment
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.groups import Roles
from proximo.control.training.rollout import Actor, Collector, Rollout
from proximo.control.training.training import Training
from proximo.core.batch import Batch
from proximo.core.schedules import Schedule
from proximo.core.updates.update import UpdateReport
from proximo.errors import UserError
from proximo.scale.mesh import ALONE, Mesh


def training_of(
    config: TrainConfig,
    environments: VectorEnvironment,
    *,
    closed_form: bool = True,
    mesh: Mesh = ALONE,
    threads: int = 1,
) -> Training:
    """The training that the settings ask for, of a student where they name a teacher; arguments as `Training`.

    Raises:
        UserError: spaces or settings that do not fit together.
    """
    distils = isinstance(config.update, Distillation)
    if distils != bool(config.teacher):
        raise UserError(
            "update.algorithm = distill and teacher belong together: start a distillation with `proximo distill RUN`, "
            "or proximo.distill(run)"
        )
    if distils:
        if environments.game is not None:
            raise UserError(
                f"distill is not offered in {environments.name}, where the policy moves for its opponents too, who "
                "have no teacher: go on from the teacher with `proximo train --from`"
            )
        return Distilling(config, environments, mesh=mesh)
    return Training(config, environments, closed_form=closed_form, mesh=mesh, threads=threads)


class Distilling(Training):
    """A student that is trained; see `Training`."""

    def __init__(self, config: TrainConfig, environments: VectorEnvironment, *, mesh: Mesh = ALONE) -> None:
        super().__init__(config, environments, closed_form=False, mesh=mesh)

    def _collector(self, actor: Actor, roles: Roles) -> Collector:
        assert isinstance(actor, ControlPolicy)
        names = self.config.observations.teacher
        teacher = Teacher.of(self.config.teacher, roles.teacher or roles.actor, self.policy, names)
        self.mixed = Mixed(self.policy, teacher)
        return TaughtCollector(self.environments, self.policy, self.mixed, self.config.rollout_length, self.noise)

    def prepare(self) -> None:
        """See `Training.prepare`."""
        super().prepare()
        assert isinstance(self.algorithm, Distillation)
        self.mixed.beta = Schedule.parse(self.algorithm.beta).at(self.share_done)

    def measure(self, rollout: Rollout, batch: Batch, report: UpdateReport) -> dict[str, Any]:
        """See `Training.measure`."""
        return super().measure(rollout, batch, report) | {"beta": self.mixed.beta}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The teacher is part of it: it stays what it was, whatever becomes of its run."""
        tensors, state = super().state()
        teacher = self.mixed.teacher.policy
        tensors |= {f"teacher/{name}": x for name, x in teacher.state_dict().items()}
        return tensors, {**state, "teacher": teacher.describe()}

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """See `Training.load`."""
        super().load(tensors, state)
        teacher = self.mixed.teacher.policy
        if not teacher.matches(state["teacher"]):
            raise UserError(
                f"the run {self.config.teacher} holds another teacher than it did when this one began: put it back, or "
                "start another run"
            )
        learnt = {name.removeprefix("teacher/"): x for name, x in tensors.items() if name.startswith("teacher/")}
        teacher.load_state_dict(learnt)
