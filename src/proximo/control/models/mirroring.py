"""A policy and its mirror image: samples to learn from beside the real ones, a price on the difference, its size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms.ppo import PPO
from proximo.control.config import SymmetrySettings, TrainConfig
from proximo.control.models.policy import MIRRORED, ControlPolicy
from proximo.control.spaces.groups import CRITIC
from proximo.control.spaces.symmetry import Symmetry, declared, given
from proximo.core.batch import Batch
from proximo.core.distributions import Bernoulli, Categorical, Distribution, Gaussian, Product, SquashedGaussian
from proximo.core.updates.update import Statistics
from proximo.errors import UserError
from proximo.runs.plugins import find_own


class Mirroring:
    """The symmetry of a task beside the policy that is trained in it.

    A policy with memory has seen the past. Its mirror image has seen the mirrored past, so it has a memory of its own,
    which follows the rollouts here: the state that the very policy would have, had all been the other way round.
    """

    def __init__(self, policy: ControlPolicy, symmetry: Symmetry, settings: SymmetrySettings) -> None:
        self.policy, self.symmetry, self.settings = policy, symmetry, settings
        self.memory: Tensor | None = None
        """`[N, S]`, before the next rollout; None without memory."""
        self._after: Tensor | None = None

    # -- The memory of the image.

    def restart(self, count: int) -> None:
        """Episodes start anew in all of `count` environments."""
        self.memory = self._after = self.policy.initial_memory(count)

    @torch.no_grad()
    def follow(self, inputs: Mapping[str, Tensor], starts: np.ndarray, last_starts: np.ndarray) -> None:
        """Go through a rollout as the image of the policy that acted in it; `settle` makes it count.

        Args:
            inputs: of the rollout, each `[T, N, ...]`.
            starts: `[T, N]`, where episodes start.
            last_starts: `[N]`, the same of what follows.
        """
        state = self.memory
        if state is None:
            return
        images = self.symmetry.inputs(inputs)
        fresh = torch.from_numpy(starts).to(state.device).unsqueeze(-1)
        for t in range(len(starts)):
            state = torch.where(fresh[t], 0.0, state)
            state = self.policy.act({name: x[t] for name, x in images.items()}, state, deterministic=True).memory
            assert state is not None
        self._after = torch.where(torch.from_numpy(last_starts).to(state.device).unsqueeze(-1), 0.0, state)

    def settle(self) -> None:
        """The rollout that was followed is done."""
        self.memory = self._after

    def joined(self, batch: Batch, memory: Tensor | None) -> Batch:
        """The batch with the memory `[N, S]` of its image."""
        return batch if memory is None else batch.replace(inputs={**batch.inputs, MIRRORED: memory})

    # -- Learning from it.

    def terms(self) -> dict[str, Any]:
        """What an update learns from beside the samples: arguments of `UpdateTask`."""
        learnt = self.settings
        return {
            "image": self.image if learnt.augmentation else None,
            "term": self.penalty if learnt.mirror_loss > 0 else None,
        }

    def seen(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Images of what is observed, for statistics of both; none where nothing is learnt from images."""
        return self.symmetry.inputs(inputs) if self.settings.learnt else {}

    def image(self, batch: Batch) -> Batch:
        """The mirror images of samples; advantages, returns and old log-probs are those of the samples."""
        return batch.replace(inputs=self._inputs(batch), action=self.symmetry.action(batch.action))

    def penalty(self, batch: Batch) -> tuple[Tensor, Statistics]:
        """Squared difference of the mean action to the image of the image's (Yu, Turk & Liu 2018), weighted."""
        price = batch.mean(self._gap(batch).square().sum(-1))
        return self.settings.mirror_loss * price, {"mirror_loss": price.detach()}

    @torch.no_grad()
    def error(self, batch: Batch) -> float:
        """Root mean square of the same difference, over samples and outputs: 0 is a policy that is symmetric."""
        return float(batch.mean(self._gap(batch).square().mean(-1)).sqrt())

    def _inputs(self, batch: Batch) -> dict[str, Tensor]:
        inputs = self.symmetry.inputs(batch.inputs)
        if MIRRORED in inputs:
            inputs |= {"memory": batch.inputs[MIRRORED], MIRRORED: batch.inputs["memory"]}
        return inputs

    def _gap(self, batch: Batch) -> Tensor:
        """`[..., outputs]`: mean action of the image, less the image of the mean action."""
        image = mean_outputs(self.policy.look(self._inputs(batch))[0])
        return image - self.symmetry.outputs(mean_outputs(self.policy.look(batch.inputs)[0]))


def mirroring_of(config: TrainConfig, policy: ControlPolicy, algorithm: PPO) -> Mirroring | None:
    """As the settings of a run declare it; None where they declare none.

    Raises:
        UserError: it does not fit the spaces, is no reflection, or the algorithm or the actions' distribution has no
            images.
    """
    settings = config.symmetry
    if not settings.declared:
        return None
    if policy.actions.beta:
        raise UserError(
            "a symmetry is of mean actions, and network.actions = beta has two other numbers for each: take gaussian "
            "or squashed actions, or leave symmetry out"
        )
    if settings.learnt and not algorithm.takes_images:
        name = type(algorithm).__name__
        raise UserError(
            f"{name} learns from no mirror images: leave symmetry.augmentation and mirror_loss out, or take ppo"
        )
    seen = {"": policy.observations}
    if policy.critic_observations is not None:
        seen[CRITIC] = policy.critic_observations
    if path := settings.function:
        symmetry = given(seen, policy.actions, find_own(path, "symmetry"), path)
    else:
        device = next(policy.parameters()).device
        symmetry = declared(seen, policy.actions, settings.observations, settings.actions, device)
    return Mirroring(policy, symmetry, settings)


def mean_outputs(distribution: Distribution) -> Tensor:
    """`[..., outputs]`: means of Box columns (after tanh, where squashed), probabilities of choices and switches.

    Raises:
        UserError: it is a distribution of the user's own.
    """
    if isinstance(distribution, Product):
        return torch.cat([mean_outputs(part) for part in distribution.parts], -1)
    if isinstance(distribution, Gaussian):
        squashed = isinstance(distribution, SquashedGaussian)
        return distribution.mean.tanh() if squashed else distribution.mean
    if isinstance(distribution, Categorical):
        return distribution.probs
    if isinstance(distribution, Bernoulli):
        return distribution.logits.sigmoid()
    raise UserError(
        f"a symmetry compares mean actions, and the network gives a {type(distribution).__name__}, whose mean is not "
        "known: give outputs instead of a distribution, or leave out symmetry"
    )
