"""A run's policy as files that need neither Proximo nor the run."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments import Source, VectorEnvironment
from proximo.control.evaluation.evaluate import evaluation_environments
from proximo.control.loading import load_policy
from proximo.control.models.policy import ControlPolicy
from proximo.errors import UserError, require_whole, require_word
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.storage.checkpoint import latest_checkpoint
from proximo.runs.storage.files import user_error
from proximo.runs.storage.folder import find_run
from proximo.views.export.contract import FORMAT, contract
from proximo.views.export.interface import Interface
from proximo.views.export.parity import LIMIT, Distance, Play, distance, perturbed, visited
from proximo.views.export.robot import ask

Target = Literal["onnx", "torchscript", "numpy", "c", "transformers", "gguf"]
TARGETS = ("onnx", "torchscript", "numpy", "c")
LANGUAGE_TARGETS = ("transformers", "gguf")
TOGETHER = 10
"""Environments that are stepped side by side for the comparison."""


@dataclass(frozen=True)
class Export:
    """What was written, and how near it is to the policy."""

    path: Path
    target: str
    checkpoint: str
    observations: int
    """That both were shown."""
    max_error: float
    """The largest distance between their actions, of numbers and of choices: see `parity.distance`."""
    contract: dict[str, Any]
    """The content of `contract.json`."""

    def __fspath__(self) -> str:
        """Its folder."""
        return str(self.path)


def export(
    run: str | PathLike[str],
    to: Target,
    out: str | PathLike[str] | None = None,
    *,
    checkpoint: str = "final",
    environment: Source | None = None,
    observations: int = 1000,
) -> Export:
    """Write the policy of a run for a program without Proximo.

    Of a control run that is its deterministic action, `proximo.load(run).act`; of a language run it is the model. Both
    are shown the same observations, half of them of fresh episodes, half of them others (or the same texts); an
    export whose actions (or logits) differ is not left.

    Args:
        run: folder of the run, or what `proximo.train` gave.
        to: onnx, torchscript, numpy or c; transformers or gguf for a language run.
        out: folder to write; RUN/export/TARGET if None. An export of the same kind that is there is replaced.
        checkpoint: `final`, `best` or a numbered one, as `proximo.load` takes it.
        environment: what makes the run's environment, where its name alone does not.
        observations: on which the two are compared; positions in random texts for a language run.

    Raises:
        UserError: there is no such run, its environment can not be made, its policy can not be written so, or the
            export is not the same policy.
    """
    require_word("to", to, (*TARGETS, *LANGUAGE_TARGETS))
    require_whole("observations", observations, 1)
    folder = find_run(Path(run))
    settings = read_toml(folder / "config.toml")
    _require_kind(folder, settings, to)
    goal = Path(out) if out is not None else folder / "export" / to
    _require_free(goal)
    if to in LANGUAGE_TARGETS:
        return _language(folder, to, goal, checkpoint, observations)
    config = from_mapping(TrainConfig, settings, where=str(folder / "config.toml"))
    policy = load_policy(folder, checkpoint).eval()
    source = config.environment if environment is None else environment
    environments = evaluation_environments(config, source, TOGETHER)
    try:
        policy.require_spaces(environments.observation_space, environments.action_space, config.mask_key)
        bounded = environments.backend != "envpool"
        interface = Interface.of(policy, environments.observation_space, bounded=bounded)
        target = import_module(f"proximo.views.export.targets.{to}_target")

        def write(new: Path) -> dict[str, Any]:
            target.write(policy, interface, new)
            found = _compared(policy, interface, target.open_export(new, interface), environments, config, observations)
            error = max(found.numbers, found.nats, found.chance)
            parity: dict[str, Any] = {"observations": observations, "max_error": error, "limit": LIMIT}
            parity |= {} if interface.logits is None else {"max_error_of_probabilities": found.chance}
            facts = {
                "target": to,
                "call": target.call(interface),
                "environment": config.environment,
                "checkpoint": _taken(folder / "checkpoints", checkpoint),
                "trained_with": {"action_repeat": config.action_repeat, "action_delay": config.action_delay},
                "parity": parity,
            }
            files = {file.name: _checksum(file) for file in sorted(new.iterdir())}
            return contract(policy, interface, ask(config, source), {**facts, "sha256": files})

        told = _put(goal, write)
    finally:
        environments.close()
    return Export(goal, to, told["checkpoint"], observations, told["parity"]["max_error"], told)


def _taken(checkpoints: Path, asked: str) -> str:
    """What `load_policy` takes; a run that has not ended has its last and best policies in the latest checkpoint."""
    latest = None if (checkpoints / asked).exists() else latest_checkpoint(checkpoints, warn=lambda _: None)
    return asked if latest is None else f"{asked} so far, of {latest.name}"


def _require_kind(folder: Path, settings: Mapping[str, Any], to: str) -> None:
    """See that the run has what the target is for.

    Raises:
        UserError: it is another kind of run.
    """
    control = settings.get("kind") == TrainConfig.kind
    if not control and settings.get("kind") != "language":
        raise UserError(f"{folder} is no run of proximo train or proximo rlhf ppo: give the folder of one")
    if control == (to in LANGUAGE_TARGETS):
        what, others = ("an environment", TARGETS) if control else ("a language model", LANGUAGE_TARGETS)
        raise UserError(f"{folder} is of {what}, which {to} is not for: choose {' or '.join(others)}")


def _language(folder: Path, to: str, goal: Path, checkpoint: str, tokens: int) -> Export:
    from proximo.views.export import language

    def write(new: Path) -> dict[str, Any]:
        found = language.write(folder, to, checkpoint, new, tokens)
        _require_near(found["max_error"], "its logits are up to {} of the largest apart")
        parity = {"observations": tokens, "max_error": found["max_error"], "limit": LIMIT}
        files = {file.name: _checksum(file) for file in sorted(new.iterdir())}
        return {"format": FORMAT, "target": to, "checkpoint": found["checkpoint"], "parity": parity, "sha256": files}

    told = _put(goal, write)
    return Export(goal, to, told["checkpoint"], tokens, told["parity"]["max_error"], told)


def _compared(
    policy: ControlPolicy,
    interface: Interface,
    play: Play,
    environments: VectorEnvironment,
    config: TrainConfig,
    count: int,
) -> Distance:
    """How far they are apart.

    Raises:
        UserError: too far.
    """
    # Apart from the seeds of training, of its evaluations and of `proximo evaluate`.
    first = seeds.derive(config.seed, seeds.FRESH, 1, environments.count)
    seen = visited(policy, environments, (count + 1) // 2, first)
    others = perturbed(policy, seen, np.random.default_rng(first[0]))
    found = Distance.of([distance(policy, interface, play, list(steps)) for steps in (seen, others)])
    _require_near(found.numbers, "its actions are up to {} of half their range apart")
    _require_near(found.chance, "the probabilities of its choices are up to {} apart")
    _require_near(found.nats, "it makes choices that the policy holds up to {} nats less probable than its own")
    return found


def _require_near(error: float, what: str) -> None:
    """See that the export is the policy.

    Raises:
        UserError: it is not.
    """
    if not error <= LIMIT:
        raise UserError(
            f"the export is not the same policy: {what.format(f'{error:.1e}')}, and {LIMIT:.0e} is "
            "allowed; nothing was written, and this is a defect of Proximo to report"
        )


def _require_free(goal: Path) -> None:
    """See that nothing but an older export would be replaced.

    Raises:
        UserError: something else is there.
    """
    if not goal.exists() or (goal.is_dir() and not any(goal.iterdir())):
        return
    try:
        known = json.loads((goal / "contract.json").read_text("utf-8"))
        ours = known["format"] == FORMAT and {x.name for x in goal.iterdir()} <= {
            "contract.json",
            "__pycache__",
            *known["sha256"],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"{goal} holds something else than an export: choose a new or an empty folder (--out)")


def _put(goal: Path, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Write a folder whole or not at all; who has files of an older one open keeps those.

    Raises:
        UserError: it can not be written.
    """
    made = [parent for parent in goal.absolute().parents if not parent.exists()]
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{goal.name}.", suffix=".tmp", dir=goal.parent))
        try:
            new.chmod(0o755)
            told = write(new)
            (new / "contract.json").write_text(json.dumps(told, indent=1) + "\n", "utf-8")
            _require_free(goal)  # also of what was put there meanwhile
            old = new.with_suffix(".old")
            if goal.exists():
                goal.rename(old)
            try:
                new.rename(goal)
            except OSError:
                if old.exists():
                    old.rename(goal)
                raise
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except BaseException as error:
        for parent in made:
            if parent.exists() and not any(parent.iterdir()):
                parent.rmdir()
        if isinstance(error, OSError):
            raise user_error(error, goal) from error
        raise
    return told


def _checksum(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()
