"""What a run starts from: an untrained policy, and settings that fit the rollout."""

from dataclasses import replace

import numpy as np
import torch

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.groups import Roles
from proximo.core.ranks import Ranks
from proximo.core.settings import UpdateSettings
from proximo.core.updates.update import minibatches
from proximo.errors import UserError
from proximo.runs.system import available_memory


def fresh_policy(config: TrainConfig, roles: Roles, actions: ActionSpec) -> ControlPolicy:
    """An untrained policy, whose weights follow from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeds.derive(config.seed, seeds.NETWORK, 0, 1)[0])
        return ControlPolicy(
            roles.actor,
            actions,
            config.network,
            normalize_observations=config.normalizers.observations,
            clip=config.normalizers.clip,
            frame_stack=config.frame_stack,
            critic_observations=roles.critic,
        )


def update_settings(config: TrainConfig, *, recurrent: bool) -> UpdateSettings:
    """The update's settings with the minibatch counted in samples of its batch: whole sequences with a memory.

    Args:
        config: of the run.
        recurrent: whether the policy has a memory.

    Raises:
        UserError: the minibatch does not divide the rollout.
    """
    size = config.update.minibatch_size
    try:
        minibatches(config.rollout_size, size)
        if not recurrent or size is None:
            return config.update
        if size % config.rollout_length:
            raise ValueError(
                f"minibatch_size = {size} must be a multiple of rollout_length = {config.rollout_length}, since a "
                f"recurrent policy learns from whole sequences: try {config.rollout_length * _near(size, config)}"
            )
    except ValueError as error:
        count, length = config.environments, config.rollout_length
        raise UserError(f"{error} (environments {count} x rollout_length {length} = {count * length})") from None
    return replace(config.update, minibatch_size=size // config.rollout_length)


def require_shares(config: TrainConfig, ranks: int, *, recurrent: bool, count: int) -> None:
    """Refuse minibatches of which a rank would have no sample.

    Args:
        config: of the run.
        ranks: how many there are.
        recurrent: whether the policy has a memory, and its samples are whole sequences.
        count: minibatches of a rollout.

    Raises:
        UserError: a rank would have nothing to do.
    """
    least = config.environments // ranks
    samples = least * (1 if recurrent else config.rollout_length)
    if samples < count:
        what = "sequences" if recurrent else "steps"
        raise UserError(
            f"a rollout is cut into {count} minibatches, and a rank with {least} of {config.environments} environments "
            f"has {samples} {what}: raise update.minibatch_size or environments, or take fewer than {ranks} ranks"
        )


def _near(size: int, config: TrainConfig) -> int:
    """Sequences that make about as many minibatches as `size` steps do, of all that a rollout has."""
    fitting = [n for n in range(1, config.environments + 1) if config.environments % n == 0]
    return min(fitting, key=lambda n: abs(n * config.rollout_length - size))


def smallest_share(mine: int, environments: int, ranks: Ranks) -> int:
    """Rows of the rank that has fewest, where this one has `mine`: ranks that choose by them choose alike."""
    share = ranks.share(environments)
    return mine * (environments // ranks.size) // max(share.stop - share.start, 1)


def require_room(config: TrainConfig, roles: Roles, actions: ActionSpec, ranks: int = 1) -> None:
    """Refuse a rollout that this machine's memory can not hold, before the system ends the process.

    Args:
        config: with this process's environments.
        roles: what actor and critic see.
        actions: of the environments.
        ranks: of this machine, each of which needs as much.

    Raises:
        UserError: it can not.
    """
    free = available_memory()
    seen = [roles.actor] if roles.critic is None else [roles.actor, roles.critic]
    images = sum(int(np.prod(shape)) for spec in seen for shape in spec.images.values())
    vector = sum(spec.vector_size for spec in seen)
    # The rollout, and once more of it in minibatches and in what is kept for a replay.
    need = 2 * config.rollout_size * (4 * (vector + actions.outputs) + images) / 2**20
    if free is None or ranks * need <= free:
        return
    numbers, each = vector + images, f" for each of {ranks} ranks" if ranks > 1 else ""
    raise UserError(
        f"a rollout of {config.rollout_size:,} steps with {numbers:,} numbers observed and {actions.outputs:,} outputs "
        f"of the policy needs {need / 1024:,.1f} GB{each}, and {free / 1024:,.1f} GB are free: lower environments or "
        "rollout_length, or show less with gymnasium.wrappers.TransformObservation (a Discrete(n) is n numbers)"
    )
