"""Opponents of a policy in games: itself as it is, and as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control import seeds
from proximo.control.config import SelfPlaySettings, TrainConfig
from proximo.control.environments.base import Observation, VectorEnvironment
from proximo.control.environments.games import Game
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.trees import map_leaves
from proximo.control.training.rollout import Actor
from proximo.errors import UserError

NOW = -1
"""As an opponent: the policy as it is."""


class PolicyPlayer:
    """Policies whose moves are drawn from their distributions; each game is against one of them.

    Args:
        policies: one at least, of one structure: plain observations, no memory.
    """

    def __init__(self, *policies: ControlPolicy) -> None:
        self._policies = policies
        self._noise = torch.Generator(next(policies[0].parameters()).device)

    def restart(self, seed: int) -> None:
        """See `Opponents.restart`."""
        self._noise.manual_seed(seed)

    def draw(self, kind: float, which: float) -> int:
        """See `Opponents.draw`: each with the same chance."""
        return int(which * len(self._policies))

    def act(self, observation: Observation, mask: np.ndarray | None, who: np.ndarray) -> Any:
        """See `Opponents.act`."""
        policies = self._policies
        actions = moves(lambda one: (policies[one], policies[one]), who, observation, mask, self._noise)
        return policies[0].actions.to_environment(actions.numpy())


class SelfPlay:
    """The policy as it is, and frozen past versions of it, from which each game draws its opponent.

    Playing only against the present one forgets what beat it before (Bansal et al. 2018, arXiv:1710.03748, section
    4.2). Moves are kept since the games last started anew, so that a resumed run repeats them and asks nobody.

    Args:
        config: of the run.
        game: in which it plays.
        policy: that learns.
        actor: what acts for it, now.
        rank: of this process.
    """

    def __init__(
        self, config: TrainConfig, game: Game, policy: ControlPolicy, actor: Callable[[], Actor], rank: int = 0
    ) -> None:
        self._settings, self._game, self._policy, self._actor = config.self_play, game, policy, actor
        self._past: dict[int, ControlPolicy] = {}
        """By the steps after which each was the policy."""
        self.noise = torch.Generator(next(policy.parameters()).device)
        self.noise.manual_seed(seeds.derive(config.seed, seeds.OPPONENTS, rank, 1)[0])
        self._moves: list[Tensor] = []
        self._again: list[Tensor] | None = None
        """What is still to be repeated, where moves are."""
        self._settled, self._who = 0, game.who.copy()
        """Moves at the last `settle`, and opponents then."""
        game.play_against(self)

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        environments: VectorEnvironment,
        policy: ControlPolicy,
        actor: Callable[[], Actor],
        rank: int = 0,
    ) -> SelfPlay | None:
        """Those that environments need; None where nobody else moves.

        Raises:
            UserError: the policy can not be an opponent; or there is none, and settings say who it is.
        """
        if (game := environments.game) is None:
            _require_plain(config, environments)
            return None
        if policy.memory_size or policy.frame_stack > 1 or config.history:
            remembered = "history" if config.history else "frame_stack"
            what = f"network.memory = {config.network.memory}" if policy.memory_size else remembered
            raise UserError(
                f"{what} is not offered in {environments.name}, where the policy moves for its opponents too, who "
                "would need a past of their own: leave it out"
            )
        return cls(config, game, policy, actor, rank)

    @property
    def past(self) -> Mapping[int, ControlPolicy]:
        """The past versions, by the steps after which each was the policy."""
        return self._past

    @property
    def versions(self) -> tuple[int, ...]:
        """Steps after which each of the past versions was the policy."""
        return tuple(self._past)

    def restart(self, seed: int) -> None:
        """See `Opponents.restart`; the noise goes on, as that of the policy does."""
        if self._again is None:
            self._moves, self._settled = [], 0

    def draw(self, kind: float, which: float) -> int:
        """See `Opponents.draw`."""
        if not self._past or kind >= self._settings.past:
            return NOW
        return self.versions[int(which * len(self._past))]

    def act(self, observation: Observation, mask: np.ndarray | None, who: np.ndarray) -> Any:
        """See `Opponents.act`."""
        if self._again and len(self._again[0]) == len(who):
            actions = self._again.pop(0)
        else:
            actions = self._chosen(observation, mask, who)
            self._moves.append(actions)
        return self._policy.actions.to_environment(actions.numpy())

    def _chosen(self, observation: Observation, mask: np.ndarray | None, who: np.ndarray) -> Tensor:
        """Each opponent's moves for its rows; one that has been dropped since its game began is the present policy."""
        known = np.where(np.isin(who, self.versions), who, NOW)

        def player(version: int) -> tuple[Actor, ControlPolicy]:
            if version == NOW:
                return self._actor(), self._policy
            return self._past[version], self._past[version]

        return moves(player, known, observation, mask, self.noise)

    def start(self) -> None:
        """Keep the policy that has learnt nothing as the first version: whoever only knows good players loses to bad
        ones, whose positions it has never seen.
        """
        if self._settings.past:
            self._keep(0, self._policy.state_dict())

    def grow(self, before: int, steps: int) -> None:
        """Keep the policy as it is, where `every` steps have passed; too many lose every second, but for the newest.

        Args:
            before: steps before the last update.
            steps: now.
        """
        if steps // self._settings.every == before // self._settings.every or not self._settings.past:
            return
        self._keep(steps, self._policy.state_dict())
        if len(self._past) > self._settings.kept:
            staying = {self.versions[0], *self.versions[::-1][::2]}
            self._past = {version: x for version, x in self._past.items() if version in staying}

    def _keep(self, version: int, weights: Mapping[str, Tensor]) -> None:
        copy = ControlPolicy.build(self._policy.describe()).to(self.noise.device)
        copy.load_state_dict(weights)
        self._past[version] = copy.requires_grad_(False).eval()

    def settle(self) -> None:
        """What has been moved up to now is what a resumed run repeats."""
        self._settled, self._who = len(self._moves), self._game.who.copy()

    def again(self) -> None:
        """Repeat what was moved since the games last started anew, as they start anew now."""
        self._moves = self._moves[: self._settled]
        self._again = list(self._moves)

    def caught_up(self) -> None:
        """All of it is repeated."""
        self._again = None
        self._game.who[:] = self._who

    def state(self) -> dict[str, Tensor]:
        """For a checkpoint: the past versions of all ranks, and the moves of this one."""
        tensors = {
            f"opponents/{version}/{name}": x
            for version, policy in self._past.items()
            for name, x in policy.state_dict().items()
        }
        tensors["environments/who"] = torch.from_numpy(self._who)
        if moved := self._moves[: self._settled]:
            tensors["environments/moves"] = torch.cat(moved)
            tensors["environments/moved"] = torch.tensor([len(each) for each in moved])
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave; `again` is next."""
        self._past, weights = {}, dict[int, dict[str, Tensor]]()
        for name, x in tensors.items():
            if name.startswith("opponents/"):
                _, version, parameter = name.split("/", 2)
                weights.setdefault(int(version), {})[parameter] = x
        for steps in sorted(weights):
            self._keep(steps, weights[steps])
        if "environments/who" in tensors:
            self._who = tensors["environments/who"].numpy().copy()
        self._moves = []
        if "environments/moves" in tensors:
            self._moves = list(tensors["environments/moves"].split(tensors["environments/moved"].tolist()))
        self._settled = len(self._moves)


def _require_plain(config: TrainConfig, environments: VectorEnvironment) -> None:
    """Refuse settings of opponents where there are none."""
    plain = SelfPlaySettings()
    names = [field.name for field in fields(plain)]
    given = [name for name in names if getattr(config.self_play, name) != getattr(plain, name)]
    if given:
        raise UserError(
            f"self_play.{' and self_play.'.join(given)} can do nothing in {environments.name}, where nobody else moves "
            "in turn: leave it out"
        )


@torch.no_grad()
def moves(
    player: Callable[[int], tuple[Actor, ControlPolicy]],
    who: np.ndarray,
    observation: Observation,
    mask: np.ndarray | None,
    noise: torch.Generator,
) -> Tensor:
    """Actions `[n, width]` as they are stored, on the host, in memory of their own.

    Args:
        player: what acts for one, and its policy, which reads observations.
        who: int `[n]`: which one each row is.
        observation: a batch `[n]` as the environment gives it.
        mask: bool `[n, K]`, where it is none of the observation's parts.
        noise: of the draws.
    """
    parts, places = [], []
    for one in np.unique(who):
        rows = np.flatnonzero(who == one)
        actor, policy = player(int(one))
        seen = map_leaves(lambda leaf, rows=rows: leaf[rows], observation)
        encoded = policy.observations.encode(seen, policy.exact_observations)
        if mask is not None:
            encoded.setdefault("mask", mask[rows])
        inputs = {name: torch.from_numpy(np.array(x, order="C")).to(noise.device) for name, x in encoded.items()}
        parts.append(actor.act(inputs, None, generator=noise).action.to("cpu", copy=True))
        places.append(rows)
    return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(places)))]
