"""Environments of other libraries, recognised by their methods; none of these libraries is imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proximo.errors import UserError

if TYPE_CHECKING:
    from proximo.control.environments.base import VectorEnvironment


def rows_of(env: Any) -> int | None:
    """How many rows an environment of another shape has; None for what is none."""
    from proximo.control.environments.backends.functional import is_functional
    from proximo.control.environments.backends.pettingzoo import is_parallel
    from proximo.control.environments.backends.pufferlib import is_puffer
    from proximo.control.environments.backends.rsl_rl import is_rsl_rl
    from proximo.control.environments.backends.turns import is_in_turn

    if is_rsl_rl(env):
        return int(env.num_envs)
    if is_puffer(env):
        return int(env.num_agents)
    if is_in_turn(env) or is_functional(env):
        return 1
    return len(env.possible_agents) if is_parallel(env) else None


def whole_copies(env: Any, count: int) -> int:
    """So many rows, or as many fewer as whole copies have where each agent is a row; those of one copy at least."""
    agents = rows_of(env) or 1
    return max(1, count // agents) * agents


def shaped_otherwise(env: Any) -> Callable[..., VectorEnvironment] | None:
    """What makes a batch of an environment of another shape: called as `(env, name, keys)`, with what makes another
    and the number of rows where there may be more; None for what is none.
    """
    import gymnasium

    from proximo.control.environments.backends.functional import FunctionalEnvironments, is_functional
    from proximo.control.environments.backends.pettingzoo import is_parallel
    from proximo.control.environments.backends.pufferlib import PufferEnvironments, is_puffer
    from proximo.control.environments.backends.rsl_rl import RslRlEnvironments, is_rsl_rl
    from proximo.control.environments.backends.turns import TurnEnvironments, is_in_turn

    if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv):
        return None
    if is_rsl_rl(env):
        return lambda env, name, keys, *_: RslRlEnvironments(env, name, keys)
    if is_puffer(env):
        return lambda env, name, keys, *_: PufferEnvironments(env, name, keys)
    if is_functional(env):
        return lambda env, name, keys, make=None, count=None: FunctionalEnvironments(env, name, keys, count)
    if is_in_turn(env):
        return lambda env, name, keys, make=None, count=1: TurnEnvironments(
            [env, *(make() for _ in range(count - 1) if make)], name, keys
        )
    return _parallel if is_parallel(env) else None


def _parallel(
    env: Any, name: str, keys: Any, make: Callable[[], Any] | None = None, count: int | None = None
) -> VectorEnvironment:
    """As many copies as make the rows."""
    from proximo.control.environments.backends.pettingzoo import PettingZooEnvironments

    agents = len(env.possible_agents)
    fitting = whole_copies(env, count or agents)
    if count not in (None, fitting):
        raise UserError(
            f"{name} has {agents} agents, each of which is a row, so environments = {count} must be a multiple of "
            f"{agents}: try {fitting}"
        )
    return PettingZooEnvironments([env, *(make() for _ in range(fitting // agents - 1) if make)], name, keys)
