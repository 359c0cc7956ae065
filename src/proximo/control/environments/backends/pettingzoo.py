"""Environments in the shape of PettingZoo's `ParallelEnv`: one policy for all agents, each of which is a row."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from proximo.control.environments.base import Observation, Step, VectorEnvironment
from proximo.control.environments.visible_leaves import ALL_KEYS, ObservationKeys
from proximo.control.spaces.trees import map_leaves, take_row
from proximo.errors import UserError

if TYPE_CHECKING:
    import gymnasium

_METHODS = ("possible_agents", "observation_space", "action_space", "reset", "step", "agents")


def is_parallel(env: Any) -> bool:
    """Whether an object has the methods of a `ParallelEnv` (pettingzoo/utils/env.py), before its first reset too."""
    return not isinstance(env, type) and all(hasattr(env, name) for name in _METHODS[:-1])


def make_pettingzoo(module: str, **options: Any) -> Any:
    """A game of PettingZoo: a `ParallelEnv` where it has one, else an `AECEnv`.

    Args:
        module: as `pettingzoo.classic.tictactoe_v3`.
        options: of the game.

    Raises:
        UserError: a package that it needs is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # for a registry that only new versions have
            game = importlib.import_module(module)
    except ImportError as error:
        package, _, rest = module.partition(".")
        extra = f"{package}[{rest.partition('.')[0]}]" if package == "pettingzoo" else package
        raise UserError(f"{module} needs a package ({error}): `pip install '{extra}'`") from error
    return (game.parallel_env if hasattr(game, "parallel_env") else game.env)(**options)


def common_spaces(env: Any, name: str) -> tuple[gymnasium.Space, gymnasium.Space]:
    """The spaces of observations and actions that all agents have.

    Raises:
        UserError: some have others.
    """
    agents, common = list(env.possible_agents), []
    for kind in ("observation_space", "action_space"):
        spaces = {agent: getattr(env, kind)(agent) for agent in agents}
        common.append(spaces[agents[0]])
        for agent, space in spaces.items():
            if space != common[-1]:
                raise UserError(
                    f"{name}: {agent} has the {kind[:-6]} space {space}, {agents[0]} has {common[-1]}, and "
                    "one policy plays all agents: make them alike with supersuit (pad_observations_v0, "
                    "pad_action_space_v0)"
                )
    return common[0], common[1]


def stacked(rows: Sequence[Any]) -> Any:
    """Observations of single agents as a batch of its own arrays."""
    return map_leaves(lambda *leaves: np.stack([np.array(x) for x in leaves]), rows[0], *rows[1:])


class ManyAgents(VectorEnvironment):
    """Copies of an environment of several agents, whose spaces are the same.

    Args:
        copies: with the same agents.
        name: what the user calls them.
        keys: what of their observations is kept.

    Raises:
        UserError: agents have different spaces.
    """

    backend = "pettingzoo"

    def __init__(self, copies: Sequence[Any], name: str, keys: ObservationKeys) -> None:
        self._copies, self.name = copies, name
        self._agents = list(copies[0].possible_agents)
        space, self.action_space = common_spaces(copies[0], name)
        self._kept = keys.kept(space, name)
        self.observation_space, self.notes = self._kept.space, self._kept.notes

    def close(self) -> None:
        """See `VectorEnvironment.close`."""
        for copy in self._copies:
            copy.close()


class PettingZooEnvironments(ManyAgents):
    """Copies of a `ParallelEnv`, agent by agent.

    An agent that is gone before its episode ends has rows that are not valid until the episode ends for all; the next
    step of that copy is then its reset, whose rows are not valid either.

    Args:
        envs: copies with the same agents.
        name: what the user calls them.
        keys: what of their observations is kept.

    Raises:
        UserError: agents have different spaces.
    """

    def __init__(self, envs: Sequence[Any], name: str, keys: ObservationKeys = ALL_KEYS) -> None:
        super().__init__(envs, name, keys)
        self.together = len(self._agents)
        self.count = len(envs) * self.together

    def reset(self, seeds: Sequence[int]) -> tuple[Observation, np.ndarray | None]:
        """See `VectorEnvironment.reset`; a copy has the seed of its first row."""
        size = len(self._agents)
        self._last = [[None] * size for _ in self._copies]
        for i, env in enumerate(self._copies):
            self._note(i, env.reset(seed=int(seeds[i * size]) % 2**31)[0])
        return self._batch(), None

    def step(self, actions: Any) -> Step:
        """See `VectorEnvironment.step`."""
        size = len(self._agents)
        valid, over, cut, started = np.zeros((4, len(self._copies), size), bool)
        paid = np.zeros((len(self._copies), size))
        for i, env in enumerate(self._copies):
            live = set(env.agents)
            if not live:
                started[i] = True
                self._note(i, env.reset()[0])
                continue
            chosen = {a: take_row(actions, i * size + k) for k, a in enumerate(self._agents) if a in live}
            seen, rewards, ends, cuts, _ = env.step(chosen)
            self._note(i, seen)
            for k, agent in enumerate(self._agents):
                if agent in live:
                    valid[i, k] = True
                    paid[i, k], over[i, k], cut[i, k] = rewards[agent], bool(ends[agent]), bool(cuts[agent])
        reward, observation = paid.reshape(-1), self._batch()
        ends = over.reshape(-1), cut.reshape(-1), valid.reshape(-1), started.reshape(-1)
        return Step(observation, observation, reward, *ends, reward, reward, ends[0] | ends[1], None)

    def _note(self, copy: int, seen: Mapping[str, Any]) -> None:
        """Keep what each agent sees; one that is gone keeps its last observation, which nobody learns from."""
        for k, agent in enumerate(self._agents):
            if agent in seen:
                self._last[copy][k] = self._kept.take(seen[agent])

    def _batch(self) -> Any:
        rows = [row for copy in self._last for row in copy]
        missing = next((row for row in rows if row is not None), None)
        rows = [missing if row is None else row for row in rows]  # an agent that joins later
        return stacked(rows)
