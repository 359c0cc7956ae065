"""What an update of a control run learns from, as tensors; and the same update from these, without environments."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms.ppo import algorithm_of
from proximo.control.closed_form.gradient import ClosedForm, supports
from proximo.control.config import TrainConfig
from proximo.control.models.device import choose_device, limit_threads
from proximo.control.models.mirroring import mirroring_of
from proximo.control.models.policy import MIRRORED, ControlPolicy
from proximo.control.training.estimation import Estimator
from proximo.control.training.rollout import FinalObservation, Rollout
from proximo.control.training.setup import update_settings
from proximo.core.batch import Batch
from proximo.core.schedules import Schedule
from proximo.core.statistics import scale_of_rewards
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask
from proximo.runs.replay.change import settable
from proximo.runs.replay.entry import Entry, Kept, under
from proximo.runs.replay.learner import Learner
from proximo.runs.replay.report import World

_ARRAYS = ("reward", "terminated", "truncated", "valid", "starts", "last_starts")
_TENSORS = ("action", "log_prob", "value", "memory", "last_memory")


def to_tensors(policy: ControlPolicy, rollout: Rollout, rewards: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What an update learns from.

    Args:
        policy: whose normalisers stand still.
        rollout: what happened.
        rewards: `[T, N]`, as they are learnt from.
        batch: made of them; its advantages and returns are those of the algorithm.
    """
    tensors = {"rewards": rewards, "advantages": batch.advantages, "returns": batch.returns}
    tensors |= {name: torch.from_numpy(getattr(rollout, name)) for name in _ARRAYS}
    tensors |= {name: x for name in _TENSORS if (x := getattr(rollout, name)) is not None}
    tensors |= {f"inputs/{name}": x for name, x in rollout.inputs.items()}
    tensors |= {f"last_inputs/{name}": x for name, x in rollout.last_inputs.items()}
    tensors |= {f"buffers/{name}": x for name, x in policy.named_buffers()}
    tensors |= {MIRRORED: batch.inputs[MIRRORED]} if MIRRORED in batch.inputs else {}
    return tensors | _final_tensors(rollout)


def _final_tensors(rollout: Rollout) -> dict[str, Tensor]:
    finals = rollout.finals
    if not finals:
        return {}
    steps = np.concatenate([np.full(len(final.rows), final.step) for final in finals])
    tensors = {"steps": torch.from_numpy(steps), "rows": torch.from_numpy(np.concatenate([f.rows for f in finals]))}
    tensors |= {f"inputs/{name}": torch.cat([f.inputs[name] for f in finals]) for name in finals[0].inputs}
    if rollout.memory is not None:
        tensors["memory"] = torch.cat([f.memory for f in finals if f.memory is not None])
    return {f"finals/{name}": x for name, x in tensors.items()}


def to_rollout(tensors: Mapping[str, Tensor], device: torch.device) -> Rollout:
    """The rollout in what `to_tensors` gave; the episodes that ended in it are not there."""
    arrays = {name: tensors[name].numpy() for name in _ARRAYS}
    there = {name: tensors[name].to(device) if name in tensors else None for name in _TENSORS}
    return Rollout(
        inputs=_on(device, under("inputs/", tensors)),
        last_inputs=_on(device, under("last_inputs/", tensors)),
        finals=_finals(under("finals/", tensors), device),
        episodes=(),
        clipped_fraction=0.0,
        **arrays,  # type: ignore[arg-type]
        **there,  # type: ignore[arg-type]
    )


def _finals(tensors: Mapping[str, Tensor], device: torch.device) -> list[FinalObservation]:
    """As they were: one for each step, since how many rows a product has may decide its last bits."""
    if not tensors:
        return []
    finals = []
    for step in tensors["steps"].unique().tolist():
        here = tensors["steps"] == step
        inputs = {name: x[here].to(device) for name, x in under("inputs/", tensors).items()}
        memory = tensors["memory"][here].to(device) if "memory" in tensors else None
        finals.append(FinalObservation(step, tensors["rows"][here].numpy(), inputs, memory))
    return finals


def _on(device: torch.device, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.to(device) for name, x in tensors.items()}


def make_learner(run: Mapping[str, Any], entry: Entry, config: TrainConfig, before: TrainConfig) -> Learner:
    """A kept update before it is done.

    Args:
        run: what the ring says of all updates: the policy's description, whether its gradient is a closed form, and
            the device of environments of tensors.
        entry: the update.
        config: the run's, or with a setting changed.
        before: the run's.

    Raises:
        UserError: settings that do not fit, or no such device.
    """
    policy = ControlPolicy.build(run["policy"])
    algorithm = algorithm_of(update_settings(config, recurrent=policy.memory_size > 0))
    beside = run.get("beside")  # in older runs nobody noted it
    device, _ = choose_device(config.device, policy.observations, policy.settings.hidden, beside, config.environments)
    policy.to(device)
    for name, x in under("buffers/", entry.learnt).items():
        policy.get_buffer(name).copy_(x)
    rate = Schedule.parse(config.learning_rate)
    optimizer = FlatAdam(policy.parameters_by_layer(), 0.0, config.adam_epsilon, configured_rate=rate.start)
    closed_form = ClosedForm(policy) if run["closed_form"] and supports(policy) else None
    shuffle = torch.Generator()
    entry.before.put_back(optimizer, {"shuffle": shuffle})
    if algorithm.adaptive_kl is None:
        optimizer.learning_rate = rate.at(entry.progress)
    rollout = to_rollout(entry.learnt, device)
    estimator = Estimator(policy, closed_form or policy, algorithm, config.gamma, config.lam, config.truncation)
    estimator.bonus = entry.learnt.get("bonus")
    batch = estimator.batch(rollout, entry.learnt["rewards"])
    if all(getattr(config, name) == getattr(before, name) for name in ("gamma", "lam", "truncation", "update")):
        batch = batch.replace(**{name: entry.learnt[name].to(device) for name in ("advantages", "returns")})
    mirroring = mirroring_of(config, policy, algorithm)
    if mirroring and MIRRORED in entry.learnt:
        batch = mirroring.joined(batch, entry.learnt[MIRRORED].to(device))

    def where(index: tuple[int, ...]) -> dict[str, Any]:
        count = rollout.valid.shape[1]
        t, n = divmod(index[0], count) if rollout.memory is None else (index[1], index[0])
        action = [round(x, 4) for x in rollout.action[t, n].reshape(-1).tolist()]
        return {"step": t, "environment": n, "action": action, "reward": float(rollout.reward[t, n])}

    task = UpdateTask(
        policy,
        batch,
        optimizer,
        progress=entry.progress,
        generator=shuffle,
        split=lambda minibatch: minibatch.split(algorithm.micro_batches),
        closed_form=closed_form,
        reestimate=estimator.reestimate,
        numbers=dict(entry.before.numbers),
        reward_scale=scale_of_rewards(entry.learnt["rewards"], torch.from_numpy(rollout.valid)),
        **(mirroring.terms() if mirroring else {}),
    )
    return Learner(task, algorithm, policy, algorithm.minibatch_size or len(batch), where)


def replay_world(kept: Kept, stack: ExitStack) -> World:
    """The world of a control run.

    Args:
        kept: its last updates.
        stack: puts the number of threads back.

    Raises:
        UserError: its settings can not be read.
    """
    config = kept.config(TrainConfig)
    images = any(name.startswith("inputs/") and x.dim() > 3 for name, x in kept.entries[0].learnt.items())
    limit_threads(stack, config.device, images=images)
    return World(config, settable(config), lambda entry, changed: make_learner(kept.run, entry, changed, config))
