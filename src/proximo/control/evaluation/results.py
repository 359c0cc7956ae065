"""Numbers about a run that is on disk."""

from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from numbers import Integral
from pathlib import Path
from typing import Any

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments.base import VectorEnvironment
from proximo.control.environments.games import RANDOM
from proximo.control.evaluation.evaluate import (
    Evaluation,
    Watch,
    evaluate_all,
    evaluation_environments,
    longest_episode,
)
from proximo.control.loading import load_policy, tell
from proximo.control.training.self_play import PolicyPlayer
from proximo.errors import UserError, require_whole
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.session.alone import others_train
from proximo.runs.session.opening import read_results
from proximo.runs.storage.folder import find_run
from proximo.runs.storage.metrics import read_metrics
from proximo.runs.storage.random_state import OwnStreams


def evaluate_run(
    folder: Path, episodes: int, seed: int | None = None, limit: int | None = None, against: Path | None = None
) -> dict[str, Any]:
    """The three numbers of a run, with fresh episodes for the two that are evaluations.

    Args:
        folder: of the run.
        episodes: for each evaluation.
        seed: of the episodes; if None, one that follows from the run's, and that neither training nor its own
            evaluations have used.
        limit: steps after which an episode is cut; the run's own if None.
        against: folder of the run whose policy plays the other seats of a game; a random player if None.

    Raises:
        UserError: there is no such run, its environment can not be made, or nobody else plays in it.
    """
    require_whole("episodes", episodes, 1)
    if limit is not None:
        require_whole("episode_limit", limit, 1)
    if seed is not None and (not isinstance(seed, Integral) or isinstance(seed, bool)):
        raise UserError(f"seed = {seed!r} must be a whole number")
    file = find_run(folder) / "config.toml"
    config = from_mapping(TrainConfig, read_toml(file), where=str(file))
    final = load_policy(folder, "final")
    best = load_policy(folder, "best", warn=lambda _: None)  # it may be the same one, of which that was just said
    rows = read_metrics(folder / "metrics.jsonl")
    chosen = seeds.derive(config.seed, seeds.FRESH, 0, 1)[0] if seed is None else seed
    with ExitStack() as stack:
        stack.enter_context(nullcontext() if others_train() else OwnStreams(chosen))
        environments = evaluation_environments(config, config.environment, episodes)
        stack.callback(environments.close)
        final.require_spaces(environments.observation_space, environments.action_space, config.mask_key)
        if against is not None:
            _play_against(against, environments, config)
        plan = {"final_deterministic": (final, True), "final_sampled": (final, False), "best_checkpoint": (best, True)}
        limit = limit or _limit(config, rows)
        results = evaluate_all(plan, environments, episodes, seed=chosen, limit=limit, watch=Watch(tell))
    return {
        "environment": config.environment,
        "run": str(folder),
        "episodes": episodes,
        "steps": rows[-1]["step"] if rows else 0,
        "last_100_training_return": rows[-1].get("return") if rows else None,
        "last_100_training_return_task": rows[-1].get("task_return") if rows else None,
        **{name: result.mean for name, result in results.items()},
        **{f"{name}_std": result.std for name, result in results.items()},
        **{f"{name}_task": result.task_mean for name, result in results.items()},
        "best_chosen_by": _criterion(folder, config),
        **(_games(results, against) if environments.game else {}),
        "seed": chosen,
        "unfinished_episodes": results["final_deterministic"].unfinished,
        "episode_limit": limit,
        "returns": {name: list(result.returns) for name, result in results.items()},
    }


def _play_against(folder: Path, environments: VectorEnvironment, config: TrainConfig) -> None:
    """Let the policy of another run move for the other seats."""
    if environments.game is None:
        raise UserError(f"nobody else moves in {config.environment}: leave --against out")
    policy = load_policy(folder)
    policy.require_spaces(environments.observation_space, environments.action_space, config.mask_key)
    environments.game.play_against(PolicyPlayer(policy))


def _games(results: Mapping[str, Evaluation], against: Path | None) -> dict[str, Any]:
    """How games went, by policy."""
    shares = {f"{name}_games": result.games for name, result in results.items()}
    return {**shares, "against": RANDOM if against is None else str(against)}


def _criterion(folder: Path, config: TrainConfig) -> str:
    """What the best policy was chosen by."""
    told = (read_results(folder / "results.json") or {}).get("best_chosen_by")
    return str(told or ("training return" if config.evaluate_every is None else "evaluation"))


def _limit(config: TrainConfig, rows: list[dict[str, Any]]) -> int:
    """Steps after which an episode is cut, from what the run's metrics say of those in training."""
    known = next((row["episodes"] for row in reversed(rows) if row.get("episodes") is not None), 1)
    return longest_episode(config, known, rows[-1]["step"] if rows else 0)
