"""The best policy of a run: by evaluations on episodes that neither training nor the final numbers see, or else by the
return of training; the last one takes the place of such a one where it is better in the evaluation at the end.
"""

from contextlib import suppress

import torch

from proximo.control import seeds
from proximo.control.config import TrainConfig
from proximo.control.environments import Source
from proximo.control.environments.base import VectorEnvironment
from proximo.control.evaluation.evaluate import WATCHED_BY_NOBODY, evaluate, evaluation_environments, longest_episode
from proximo.control.loading import policy_from
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.training import Training
from proximo.runs.session.signals import Interrupted
from proximo.runs.storage.checkpoint import save_checkpoint
from proximo.runs.storage.folder import RunFolder

BY_TRAINING, AT_THE_END, LAST = "training return", "evaluation at the end", "being the last"


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

    def look(self, training: Training) -> None:
        """Evaluate the policy and keep it if it is the best so far. Training does not notice.

        Raises:
            Interrupted: by who may interrupt `training`, or by `watch`; then nothing was looked at.
        """
        mean = training.mesh.of_the_first(lambda: self._mean(training))
        if mean is None:
            raise Interrupted
        if training.consider(mean) and training.mesh.first:
            self.save(training)
        training.progress.evaluated, training.progress.evaluation_return = training.done, mean

    def _mean(self, training: Training) -> float | None:
        """Mean return now; None where someone has interrupted."""
        episodes = self._config.episodes
        if self._environments is None:  # outside: processes that are forked within would be interrupted too
            self._environments = evaluation_environments(self._config, self._source, episodes)
        with suppress(Interrupted), training.interruptible():
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

    def save(self, training: Training) -> None:
        """Write the best policy so far as the checkpoint `best`."""
        tensors, state = training.state()
        if training.self_play and self.criterion == BY_TRAINING:
            self.criterion = LAST
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
