"""The best policy of a run: by evaluations on episodes that neither training nor the final numbers see, or else by the
return of training; the last one takes the place of such a one where it is better in the evaluation at the end. A policy
that plays against itself has no return that says how good it is: its versions play the pool of all that are kept.
"""

from collections.abc import Mapping
from contextlib import suppress

import torch

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments import Source
from proximo.control.environments.base import VectorEnvironment
from proximo.control.evaluation import matches
from proximo.control.evaluation.evaluate import WATCHED_BY_NOBODY, evaluate, evaluation_environments, longest_episode
from proximo.control.loading import policy_from
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.training import Training
from proximo.runs.session.signals import Interrupted
from proximo.runs.storage.checkpoint import save_checkpoint
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.random_state import OwnStreams

BY_TRAINING, AT_THE_END, LAST = "training return", "evaluation at the end", "being the last"
BY_MATCHES = "matches against past versions"


class Selection:
    """Evaluates every `evaluate_every` steps, always on the same episodes, and keeps the best policy apart.

    Args:
        config: of the run.
        source: of its environments.
        folder: of the run.
    """

    def __init__(self, config: TrainConfig, source: Source, folder: RunFolder) -> None:
        self._config, self._source, self._folder = config, source, folder
        self._environments: VectorEnvironment | None = None
        self.watch = WATCHED_BY_NOBODY
        """Told how far an evaluation is, and asked whether to stop."""
        self._seed = seeds.derive(config.seed, seeds.SELECTION, 0, 1)[0]
        self.criterion = BY_TRAINING if config.evaluate_every is None else "evaluation"
        """What the best policy is the best by."""

    def due(self, training: Training) -> bool:
        """Whether an evaluation is due."""
        every = self._config.evaluate_every
        return every is not None and training.done // every > training.progress.evaluated // every

    def never_looked(self, training: Training) -> bool:
        """Whether a run that was to be evaluated has ended before it was time to."""
        return self._config.evaluate_every is not None and not training.progress.evaluated

    def look(self, training: Training) -> None:
        """Evaluate the policy and keep it if it is the best so far. Training does not notice.

        Raises:
            Interrupted: by who may interrupt `training`, or by `watch`; then nothing was looked at.
        """
        if training.self_play and training.self_play.past:
            mean = self._match(training)
        else:
            mean = training.mesh.of_the_first(lambda: self._mean(training))
        if mean is None:
            raise Interrupted
        if training.consider(mean):
            with training.mesh.together():
                if training.mesh.first:
                    self.save(training)
        training.progress.evaluated, training.progress.evaluation_return = training.done, mean

    def _mean(self, training: Training) -> float | None:
        """Mean return now; None where someone has interrupted."""
        episodes = self._config.episodes
        if self._environments is None:  # outside: processes that are forked within would be interrupted too
            with OwnStreams(self._seed):
                self._environments = evaluation_environments(self._config, self._source, episodes)
        with suppress(Interrupted), training.interruptible(), OwnStreams(self._seed):
            progress = training.progress
            training.note_wrappers()
            limit = longest_episode(self._config, progress.episodes, progress.steps)
            seen = evaluate(
                training.policy,
                self._environments,
                episodes,
                deterministic=True,
                seed=self._seed,
                limit=limit,
                watch=self.watch,
            )
            return seen.mean
        return None

    def _match(self, training: Training) -> float | None:
        """Mean return of the policy now against the pool; that of the best so far is measured anew, for the pool has
        changed since. None where someone has interrupted.
        """
        self.criterion = BY_MATCHES
        versions = matches.candidates(training, ended=False)
        told = training.mesh.of_the_first(lambda: self._scores(training, versions))
        if told is None:
            return None
        training.best.mean_return = told.get(matches.BEST, training.best.mean_return)
        return told[matches.NOW]

    def _scores(self, training: Training, versions: Mapping[str, ControlPolicy]) -> dict[str, float] | None:
        if self._environments is None:
            with OwnStreams(self._seed):
                self._environments = evaluation_environments(self._config, self._source, matches.GAMES)
        limit = longest_episode(self._config, training.progress.episodes, training.progress.steps)
        with suppress(Interrupted), training.interruptible(), OwnStreams(self._seed):
            return matches.scores(versions, training, self._environments, self._seed, limit, self.watch)
        return None

    def choose_version(self, training: Training) -> None:
        """Where no evaluation has chosen one on the way: the best of the last policy and the newest past versions.

        Raises:
            Interrupted: by who may interrupt `training`, or by `watch`; then nothing was chosen.
        """
        if self.criterion != BY_TRAINING or not training.self_play:
            return
        self.criterion = BY_MATCHES if training.self_play.past else LAST
        if self.criterion == LAST:
            return
        versions = matches.candidates(training, ended=True)
        if (told := self._scores(training, versions)) is None:
            raise Interrupted
        best = max(told, key=lambda name: told[name])  # the first of equals, which is the last policy
        training.best.keep(versions[best], told[best])
        self.watch.tell(f"best of {len(told)} versions against {len(training.self_play.past)}: {best}")

    def save(self, training: Training) -> None:
        """Write the best policy so far as the checkpoint `best`."""
        tensors, state = training.state()
        self._write(policy_from(tensors, state, "best"), state["best_return"])

    def prefer_last(self, training: Training, mean_return: float) -> None:
        """Write the last policy as the checkpoint `best`: the return of training lags behind what it has learnt.

        Args:
            training: at its end.
            mean_return: of the last policy in the evaluation at the end, above that of the best by training return.
        """
        self.criterion = AT_THE_END
        self._write(training.policy, mean_return)

    def _write(self, policy: ControlPolicy, mean_return: float | None) -> None:
        weights = {f"policy/{name}": x for name, x in policy.state_dict().items()}
        weights |= {f"wrappers/policy/{name}": torch.from_numpy(x) for name, x in policy.wrappers.items()}
        about = {"policy": policy.describe(), "mean_return": mean_return, "chosen_by": self.criterion}
        save_checkpoint(self._folder.checkpoints, "best", weights, about)

    def close(self) -> None:
        """Free the environments."""
        if self._environments is not None:
            self._environments.close()
