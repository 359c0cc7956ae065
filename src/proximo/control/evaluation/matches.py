"""Which version of a policy plays a game best: each plays the whole pool, in the same games, which no training sees."""

from __future__ import annotations

from collections.abc import Mapping

from proximo.control.environments.base import VectorEnvironment
from proximo.control.evaluation.evaluate import WATCHED_BY_NOBODY, Watch, evaluate_all
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.self_play import PolicyPlayer
from proximo.control.training.training import Training

GAMES = 128
"""Of each candidate, so that its score has a standard error of 0.09 at most."""
_NEWEST = 4
"""Past versions that are candidates beside the last policy."""
NOW, BEST = "the policy as it is", "the best so far"


def candidates(training: Training, *, ended: bool) -> dict[str, ControlPolicy]:
    """Who may be the best version, the policy as it is before all others.

    Args:
        training: that plays against itself.
        ended: whether no evaluation has chosen one on the way: then the newest past versions are among them, and else
            the best so far.
    """
    found = {NOW: training.policy}
    if ended:
        past = training.self_play.past if training.self_play else {}
        newest = sorted(past, reverse=True)[:_NEWEST]
        return found | {f"the version of {steps:,} steps": past[steps] for steps in newest}
    if training.best.weights:
        best = ControlPolicy.build(training.policy.describe()).to(training.device)
        best.load_state_dict(training.best.weights)
        found[BEST] = best
    return found


def scores(
    versions: Mapping[str, ControlPolicy],
    training: Training,
    environments: VectorEnvironment,
    seed: int,
    limit: int,
    watch: Watch = WATCHED_BY_NOBODY,
) -> dict[str, float]:
    """Mean return of each version's most probable moves in `GAMES` games against the pool, whose moves are drawn.

    Args:
        versions: by name.
        training: whose past versions are the pool.
        environments: the game.
        seed: of the games: seats, opponents and chances are the same for all versions.
        limit: moves after which a game is cut.
        watch: told how far it is, and asked whether to stop.

    Raises:
        Interrupted: `watch` says so.
    """
    assert environments.game is not None
    assert training.self_play is not None
    environments.game.play_against(PolicyPlayer(*training.self_play.past.values()))
    plan = {name: (policy, True) for name, policy in versions.items()}
    told = evaluate_all(plan, environments, GAMES, seed=seed, limit=limit, watch=watch)
    return {name: seen.mean for name, seen in told.items()}
