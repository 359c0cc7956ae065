"""The last and the best policy, saved and evaluated when a training has ended."""

import json
import time
from typing import Any

from proximo.control.environments import Source
from proximo.control.environments.games import RANDOM
from proximo.control.evaluation.evaluate import evaluate_all, evaluation_environments, longest_episode
from proximo.control.evaluation.selection import BY_TRAINING, Selection
from proximo.control.loading import policy_from
from proximo.control.training.training import Training
from proximo.errors import UserError
from proximo.runs.session.session import Session
from proximo.runs.session.signals import Interrupted
from proximo.runs.storage.checkpoint import save_checkpoint
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.random_state import OwnStreams


def finish(
    training: Training, session: Session, selection: Selection, source: Source, started: float, ended: str | None
) -> dict[str, Any] | None:
    """Save the last and the best policy, evaluate both, and write the results.

    If the evaluation is interrupted, the same command resumes from the numbered checkpoint.

    Args:
        training: that has ended.
        session: of it.
        selection: of the best policy.
        source: of the environments of the evaluation.
        started: time at which the training began, by `time.monotonic`.
        ended: the callback that ended it before its last step, or None.

    Returns:
        The results; None if a signal asked to stop and the evaluation did not end in time.
    """
    session.save()
    training.mesh.of_the_first(lambda: _save_final(training, session))
    seconds = time.monotonic() - started
    try:
        if selection.due(training) or selection.never_looked(training):
            selection.look(training)
        return training.mesh.of_the_first(lambda: _results(training, session, selection, source, seconds, ended))
    except Interrupted:
        return None


def _save_final(training: Training, session: Session) -> None:
    tensors, state = training.state()
    # The actions of the environments are for a run that resumes; the final checkpoint is for those who use the policy.
    lasting = {name: x for name, x in tensors.items() if not name.startswith("environments/")}
    save_checkpoint(session.folder.checkpoints, "final", lasting, state)


def _results(
    training: Training, session: Session, selection: Selection, source: Source, seconds: float, ended: str | None
) -> dict[str, Any] | None:
    config, folder = training.config, session.folder
    try:
        selection.choose_version(training)
        selection.save(training)
        evaluations = _evaluate_both(training, source, selection)
    except Interrupted:
        return None
    except UserError:
        if session.stop.requested is None:
            raise
        return None  # schedulers send their signal to the environments' processes too
    results = {
        "last_100_training_return": training.recent.mean_return,
        "last_100_training_return_task": training.recent.mean_task_return,
        **evaluations,
        "best_chosen_by": selection.criterion,
        "episodes": config.episodes,
        "steps": training.progress.steps,
        "seconds": seconds,
        "steps_per_second": training.progress.steps / seconds,
        "exact_resume": training.progress.exact_resume,
        **({"ended_by": ended} if ended else {}),
    }
    folder.go_back()
    write_atomically(folder.results, json.dumps(results, indent=1).encode())
    return results


def _evaluate_both(training: Training, source: Source, selection: Selection) -> dict[str, Any]:
    """The last policy, deterministic and sampled, and the best one; where only returns of training chose that, the last
    one takes its place if it is better here.

    Raises:
        Interrupted: by who may interrupt `training`, or by the watch of `selection`.
    """
    watch = selection.watch
    config, progress = training.config, training.progress
    limit = longest_episode(config, progress.episodes, progress.steps)
    if config.episode_limit is not None or not progress.episodes:
        why = "" if config.episode_limit is not None else ", for none has ended in training (episode_limit sets it)"
        watch.tell(f"an episode of the evaluations is cut after {limit:,} steps{why}")
    last, best = training.policy, policy_from(*training.state(), "best")
    policies = {
        "final deterministic": (last, True),
        "final sampled": (last, False),
        "best checkpoint": (best, True),
    }
    # Made outside of what may be interrupted: processes that are forked within would be interrupted too.
    with OwnStreams(config.seed):
        environments = evaluation_environments(config, source, config.episodes)
    try:
        with training.interruptible(), OwnStreams(config.seed):
            seen = evaluate_all(policies, environments, config.episodes, seed=config.seed, limit=limit, watch=watch)
    finally:
        environments.close()
    final, sampled, chosen = seen.values()
    games = {} if environments.game is None else {"final_deterministic_games": final.games, "against": RANDOM}
    if selection.criterion == BY_TRAINING and final.mean > chosen.mean:
        selection.prefer_last(training, final.mean)
        chosen = final
    return {
        "final_deterministic": final.mean,
        "final_deterministic_std": final.std,
        "final_deterministic_task": final.task_mean,
        "final_sampled": sampled.mean,
        "final_sampled_std": sampled.std,
        "final_sampled_task": sampled.task_mean,
        "best_checkpoint": chosen.mean,
        "best_checkpoint_std": chosen.std,
        "best_checkpoint_task": chosen.task_mean,
        **games,
        "unfinished_episodes": final.unfinished,
        "episode_limit": limit,
    }
