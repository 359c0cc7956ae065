"""Over-optimisation, measured while it happens: a judge that is not optimised scores held-out prompts again and again.

The reward rises as long as PPO runs. Whether the texts get better is another question: beyond some way from the
reference the reward's mistakes are what is learnt (Gao, Schulman & Hilton 2022). KL, entropy and length do not show
that point in advance; a second opinion does once it is there.
"""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from proximo.core.divergences import kl_k1, steadied
from proximo.errors import UserError
from proximo.language.data.dataset import load_prompts
from proximo.language.data.prompts import Prompt
from proximo.language.given.rewards import Own
from proximo.language.meter.curve import Fit, fit
from proximo.language.ppo.training import PPOTraining
from proximo.language.rewards.judge_term import make_judge
from proximo.language.rewards.terms import RewardTerm
from proximo.language.sampling.texts import to_batch, to_texts
from proximo.runs.session.callbacks import Callback
from proximo.runs.storage.checkpoint import load_checkpoint, save_checkpoint
from proximo.runs.storage.folder import RunFolder

METER = "meter"
"""Name of a run's meter among its callbacks."""
PASSED = "the judge's score has passed its peak"
"""Why a run ended that was to stop there."""
BEST = "best"
"""Name of the checkpoint that the judge liked best."""
SURE = 0.95
"""Share of the resampled curves that must have their peak behind the policy before it counts as passed."""
FALLEN = 1.64
"""Standard errors by which the score must have fallen, prompt by prompt: one side of 95 %."""
AGAIN = 2
"""Measurements in a row that must say so."""


class Meter(Callback):
    """Scores the policy's answers to the same prompts, drawn with the same random numbers, every few iterations.

    Args:
        training: what is judged. Its own random numbers, prompts and weights stay as they are.
        judge: gives one number per response; it must be none of the rewards.
        prompts: held out; a few are asked again and again if there are fewer than `judge_prompts`.
        folder: of the run, for the checkpoint that the judge likes best.
    """

    def __init__(self, training: PPOTraining, judge: RewardTerm, prompts: Sequence[Prompt], folder: RunFolder) -> None:
        config = training.config
        self._training, self._judge, self._folder = training, judge, folder
        last = list(prompts[-config.judge_prompts :])  # an evaluation at the end takes the first ones
        self._prompts = [last[i % len(last)] for i in range(config.judge_prompts)]
        self.responses: list[int] = []
        """Responses of the run at each measurement."""
        self._scores: list[list[float]] = []
        self._divergences: list[list[float]] = []
        self._behind = 0
        self._news: list[str] = []

    # -- As a callback.

    def start(self, trainer: Any) -> None:
        """Judge the reference itself: the policy before the first iteration."""
        if not self.responses:
            self.look()

    def iteration(self, trainer: Any, metrics: dict[str, Any]) -> bool | None:
        """Judge the policy where it is time to; False ends a run that is to stop at the peak, and has passed it."""
        config, training = self._training.config, self._training
        last = training.done >= config.responses
        if training.progress.iterations % config.judge_every and not last:
            return None
        began = time.perf_counter()
        self.look()
        metrics |= self.metrics(found := self.fit())
        metrics["seconds/judge"] = time.perf_counter() - began
        self._behind = self._behind + 1 if self._beyond(found) else 0
        if self._behind == AGAIN:
            self._news.append(self.sentence(found))
        return False if self.passed and config.stop_at_peak else None

    def state(self) -> dict[str, Any]:
        """All measurements."""
        return {
            "responses": self.responses,
            "scores": self._scores,
            "divergences": self._divergences,
            "behind": self._behind,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        self.responses, self._scores = list(state["responses"]), list(state["scores"])
        self._divergences, self._behind = list(state["divergences"]), state["behind"]

    # -- What it measures.

    @torch.no_grad()
    def look(self) -> None:
        """One measurement of the policy as it is; kept apart where it is the best so far."""
        training = self._training
        with training.policy.computing():
            noise = torch.Generator().manual_seed(training.config.seed)
            samples = training.sample([prompt.tokens for prompt in self._prompts], noise)
        batch = to_batch(self._prompts, samples)
        scores = self._judge(to_texts(self._prompts, samples, training.tokenizer)).nan_to_num(0.0)
        k1 = torch.where(batch.weight > 0, kl_k1(batch.log_prob, training.policy.reference_log_probs(batch)), 0.0)
        self.responses.append(training.done)
        self._scores.append(scores.tolist())
        self._divergences.append(steadied(k1.sum(1), torch.expm1(-k1).sum(1)).tolist())
        if self.best == len(self._scores) - 1:
            weights = {f"trained/{name}": x for name, x in training.roles.trained_state().items()}
            about = {"responses": training.done, "judge": self.means[-1]}
            save_checkpoint(self._folder.checkpoints, BEST, weights, about)

    @property
    def means(self) -> list[float]:
        """The judge's mean score at each measurement."""
        return [sum(row) / len(row) for row in self._scores]

    @property
    def distances(self) -> list[float]:
        """√KL from the reference at each measurement, on the judged responses."""
        return [math.sqrt(max(0.0, sum(row) / len(row))) for row in self._divergences]

    @property
    def best(self) -> int:
        """Index of the measurement with the highest mean score; the first of equals."""
        means = self.means
        return means.index(max(means))

    @property
    def passed(self) -> bool:
        """Whether the peak is behind, as far as the measurements can say."""
        return self._behind >= AGAIN

    def fit(self) -> Fit | None:
        """The curve through all measurements; None where there are too few."""
        return fit(torch.tensor(self._scores), torch.tensor(self._divergences))

    def _beyond(self, found: Fit | None) -> bool:
        """Whether the curve has its peak behind the policy, and the same prompts score lower now than at the best."""
        if found is None or found.passed < SURE:
            return False
        fall = torch.tensor(self._scores[self.best]).double() - torch.tensor(self._scores[-1]).double()
        return float(fall.mean()) > FALLEN * float(fall.std()) / math.sqrt(len(fall))

    def metrics(self, found: Fit | None) -> dict[str, float | None]:
        """The last measurement and what all of them say, by name."""
        scores = torch.tensor(self._scores[-1], dtype=torch.float64)
        error = float(scores.std()) / math.sqrt(len(scores)) if len(scores) > 1 else None
        seen: dict[str, float | None] = {
            "judge": self.means[-1],
            "judge_se": error,
            "judge_distance": self.distances[-1],
        }
        if found is not None:
            curve = found.curve
            seen |= {"judge_alpha": curve.alpha, "judge_beta": curve.beta, "judge_peak": _finite(found.peak)}
            seen |= {"judge_peak_low": _finite(found.low), "judge_peak_high": _finite(found.high)}
        return seen

    def told(self) -> list[str]:
        """Sentences that nobody has been told yet."""
        news, self._news = self._news, []
        return news

    def sentence(self, found: Fit | None) -> str:
        """That the peak is behind."""
        assert found is not None
        best, means = self.best, self.means
        return (
            f"the judge's peak is behind: at √KL {found.peak:.2f} ({found.low:.2f} to {found.high:.2f}), now "
            f"{self.distances[-1]:.2f}; judge {means[best]:.2f} at {self.responses[best]:,} responses, now "
            f"{means[-1]:.2f}"
        )

    # -- What is left at the end.

    def results(self) -> dict[str, Any]:
        """What the judge saw, for `results.json`."""
        best, means, found = self.best, self.means, self.fit()
        seen = {
            "judge_first": means[0],
            "judge_last": means[-1],
            "judge_best": means[best],
            "judge_best_responses": self.responses[best],
        }
        return seen if found is None else seen | {"judge_peak": _finite(found.peak)}

    @property
    def last_is_best(self) -> bool:
        """Whether the policy as it is now was liked best."""
        return self.responses[self.best] == self._training.done

    def take_best(self) -> None:
        """Put the weights that the judge liked best into the training's roles.

        Raises:
            UserError: their checkpoint is damaged.
        """
        tensors, _ = load_checkpoint(self._folder.checkpoints / BEST)
        self._training.roles.load_trained({name.removeprefix("trained/"): x for name, x in tensors.items()})


def make_meter(training: PPOTraining, folder: RunFolder, own: Own | None = None) -> Meter | None:
    """The meter that a run's settings ask for; None where nobody judges.

    Args:
        training: of the run.
        folder: of the run.
        own: what the judge's name may stand for in this process.

    Raises:
        UserError: judge or prompts can not be loaded.
    """
    config = training.config
    if not config.judge:
        return None
    judge = make_judge(config, training.device, own)
    held_out = config.held_out or config.prompts
    prompts = load_prompts(held_out, training.tokenizer, config.prompt_limit).items
    if not prompts:
        raise UserError(f"there is no prompt for the judge: check {held_out} and prompt_limit")
    return Meter(training, judge, prompts, folder)


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
