"""Teach a student what a trained policy would do, from start to result."""

from collections.abc import Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from proximo.algorithms.distillation import Distillation
from proximo.control.config import NetworkSettings, ObservationSettings, TrainConfig
from proximo.control.environments import Source, known_name, name_of
from proximo.control.loading import load_policy
from proximo.control.own_parts import Maker, require_one_name, require_one_size, with_groups, with_own_parts
from proximo.control.result import Run
from proximo.control.trainer import Trainer
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.console.progress import Mode, checked_mode
from proximo.runs.session.callbacks import Given
from proximo.runs.session.opening import Call
from proximo.scale.launched import require_one_process


def distill(
    teacher: str | PathLike[str],
    environment: Source | None = None,
    *,
    network: Maker | NetworkSettings | Mapping[str, Any] | None = None,
    encoders: Mapping[str, Maker] | None = None,
    callbacks: Sequence[Given] = (),
    progress: Mode = "auto",
    stop_at: int | None = None,
    fresh: bool = False,
    allow_change: bool = False,
    **settings: Any,
) -> Run:
    """Teach a student what a trained policy would do (DAgger: Ross, Gordon & Bagnell 2011, arXiv 1011.0686).

    The student acts, its teacher says what it would have done, and the student learns that. It may see less
    (`observations={"student": [...]}`) and have a memory instead (`network={"memory": "gru"}`). What comes out is a run
    as any other, from which `proximo.train(..., start_from=run)` may go on.

    Args:
        teacher: folder of its run.
        environment: as `proximo.train` takes it; None takes the teacher's own.
        network: of the student, as `proximo.train` takes it; the teacher's settings where they are not given.
        encoders: as there.
        callbacks: as there.
        progress: as there.
        stop_at: as there.
        fresh: as there.
        allow_change: as there.
        settings: as there; `update={"beta": ...}` is the share of steps that the teacher takes.

    Returns:
        The student's run: its folder and its results.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    require_one_process("proximo.distill", "call it without torchrun")
    source = known_name(environment) if isinstance(environment, str) else environment
    base = student_settings(teacher, source)
    settings = with_own_parts(with_groups(settings, taught=True), None, network, encoders)
    require_one_name(settings.get("observations"))
    require_one_size(settings.get("minibatches"), settings.get("update"))
    if isinstance(settings.get("run"), PathLike):
        settings["run"] = fspath(settings["run"])
    if isinstance(settings.get("options"), Mapping):
        settings["options"] = {**base.options, **settings["options"]}
    config = from_mapping(TrainConfig, settings, where="the arguments of proximo.distill", base=base)
    call = Call(stop_at, fresh, allow_change)
    return Trainer.of(config, source, checked_mode(progress), call, callbacks).to_the_end()


def student_settings(teacher: str | PathLike[str], environment: Source | None = None) -> TrainConfig:
    """Settings of a student before any are given: task (delays and histories too), network and discount of its teacher.

    Args:
        teacher: folder of its run.
        environment: the student's; None takes the teacher's own.

    Raises:
        UserError: there is no such run, or it is none of a control policy.
    """
    folder = Path(teacher)
    seen = load_policy(folder).observations  # also says what is wrong with a folder that holds no run
    theirs = from_mapping(TrainConfig, read_toml(folder / "config.toml"), where=str(folder / "config.toml"))
    parts = tuple(part.key for part in seen.parts if part.key and part.kind != "mask")
    views = ObservationSettings(actor=parts, critic=theirs.observations.critic, teacher=parts)
    kept = ["frame_stack", "history", "action_repeat", "action_delay", "mask_key"]  # the task as its policy met it
    kept += ["device", "network", "normalizers", "gamma", "lam", "truncation"]
    if environment is None:
        kept += ["backend", "options", "environment_timeout", "episode_limit"]
    return TrainConfig(
        environment=theirs.environment if environment is None else name_of(environment),
        preset="distill",
        teacher=str(folder),
        steps=200_000,
        environments=16,
        rollout_length=64,
        learning_rate="1e-3 -> 0",
        observations=views if parts else ObservationSettings(),
        update=Distillation(),
        **{name: getattr(theirs, name) for name in kept},
    )
