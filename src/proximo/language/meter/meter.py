"""Over-optimisation, measured while it happens: a judge that is not optimised scores held-out prompts again and again.

The reward rises as long as PPO runs. Whether the texts get better is another question: beyond some way from the
reference the reward's mistakes are what is learnt (Gao, Schulman & Hilton 2022). KL, entropy and length do not show
that point in advance; a second opinion does once it is there.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from proximo.core.divergences import kl_k1, steadied
from proximo.errors import UserError
from proximo.language.data.dataset import load_prompts
from proximo.language.data.prompts import Prompt
from proximo.language.given.rewards import Own
from proximo.language.lineage import digest_of, weights_id
from proximo.language.meter.curve import Fit, fallen, fit
from proximo.language.meter.judge_term import make_judge
from proximo.language.ppo.training import PPOTraining
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
FALLEN = 3.0
"""Standard errors by which the score must have fallen, see `fallen`: it is asked again and again, so by more than the
usual two."""
AGAIN = 2
"""Measurements in a row that must say so."""
TOGETHER = 3
"""Measurements whose mean says how good a policy is, the last one and those before it. One alone, of 64 answers, is
best by chance too often."""


class Meter(Callback):
    """Scores the policy's answers to the same prompts every few iterations.

    They are drawn anew each time: what 64 draws have of chance would stay the same and look like a peak, while over
    many measurements it averages out. Which draws they are follows from the run's seed.

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
        self.spent = 0.0
        """Seconds of the run that were judging, and not training."""
        self._told = 0.0
        self.passed_at: int | None = None
        """Responses of the run when the peak was first known to be behind."""
        asked = digest_of(prompt.tokens for prompt in self._prompts)
        self._asked = f"{config.judge} {weights_id(Path(config.judge))} {asked}"
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
        due = last or not training.progress.iterations % config.judge_every
        if due:
            self.look()
            with self._timed():
                metrics |= self.metrics(found := self.fit())
        if self.spent > self._told:  # the look at the reference is of the first row
            metrics["seconds/judge"], self._told = self.spent - self._told, self.spent
        if not due:
            return None
        self._behind = self._behind + 1 if self._beyond(found) else 0
        if self.passed and self.passed_at is None:
            self.passed_at = training.done
            self._news.append(self.sentence(found))
        return False if self.passed and config.stop_at_peak else None

    def state(self) -> dict[str, Any]:
        """All measurements."""
        return {
            "asked": self._asked,
            "passed_at": self.passed_at,
            "responses": self.responses,
            "scores": self._scores,
            "divergences": self._divergences,
            "behind": self._behind,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave; nothing if another judge gave it, or other prompts were asked."""
        if state["asked"] != self._asked:
            self._news.append("the judge or its prompts are others than before: its measurements begin anew")
            return
        self.passed_at = state["passed_at"]
        self.responses, self._scores = list(state["responses"]), list(state["scores"])
        self._divergences, self._behind = list(state["divergences"]), state["behind"]

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in what judging has taken in a run that goes on, as its rows of metrics say."""
        self.spent = self._told = sum(float(row.get("seconds/judge") or 0.0) for row in rows)

    # -- What it measures.

    def look(self) -> None:
        """One measurement of the policy as it is; kept apart where it is the best so far."""
        with self._timed():
            self._look()

    @torch.no_grad()
    def _look(self) -> None:
        training = self._training
        with training.policy.computing():
            noise = torch.Generator().manual_seed(training.config.seed * 1_000_003 + len(self.responses))
            samples = training.sample([prompt.tokens for prompt in self._prompts], noise)
        batch = to_batch(self._prompts, samples)
        scores = self._judge(to_texts(self._prompts, samples, training.tokenizer))
        if bool(scores.isnan().any()):
            raise UserError(f"the judge {training.config.judge} gave None for a response: it must score each of them")
        k1 = torch.where(batch.weight > 0, kl_k1(batch.log_prob, training.policy.reference_log_probs(batch)), 0.0)
        self.responses.append(training.done)
        self._scores.append(scores.tolist())
        self._divergences.append(steadied(k1.sum(1), torch.expm1(-k1).sum(1)).tolist())
        if self.last_is_best:
            weights = {f"trained/{name}": x for name, x in training.roles.trained_state().items()}
            about = {"responses": training.done, "judge": self.means[-1]}
            save_checkpoint(self._folder.checkpoints, BEST, weights, about)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.spent += time.perf_counter() - began

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
        """Index of the best measurement: with the two before it the best, and no worse than these; the first of equals.

        The first three are judged by their mean, so none of them is ahead for being one alone.
        """
        means = self.means
        steady = [sum(each) / len(each) for each in (self._window(means, i) for i in range(len(means)))]
        fit = [i for i, (mean, together) in enumerate(zip(means, steady, strict=True)) if mean >= together]
        return max(fit, key=lambda i: (steady[i], means[i], -i))

    @staticmethod
    def _window(means: Sequence[float], i: int) -> Sequence[float]:
        return means[:TOGETHER] if i < TOGETHER else means[i + 1 - TOGETHER : i + 1]

    @property
    def passed(self) -> bool:
        """Whether the peak is behind, as far as the measurements can say."""
        return self._behind >= AGAIN

    def fit(self) -> Fit | None:
        """The curve through all measurements; None where there are too few."""
        return fit(torch.tensor(self._scores), torch.tensor(self._divergences))

    def _beyond(self, found: Fit | None) -> bool:
        """Whether the peak is behind the policy, and the same prompts score lower now than at the best."""
        return found is not None and found.passed >= SURE and fallen(torch.tensor(self._scores)) > FALLEN

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
            "judge_passed_at": self.passed_at,
        }
        return seen if found is None else seen | {"judge_peak": _finite(found.peak)}

    @property
    def last_is_best(self) -> bool:
        """Whether the policy as it is now was liked best."""
        return self.responses[self.best] == self._training.done

    def take_best(self) -> bool:
        """Put the weights that the judge liked best into the training's roles, if they are there.

        Returns:
            False where the checkpoint is of another measurement: the run was resumed from before it, and went on
            otherwise.

        Raises:
            UserError: their checkpoint is damaged.
        """
        tensors, about = load_checkpoint(self._folder.checkpoints / BEST)
        if about["responses"] != self.responses[self.best]:
            return False
        self._training.roles.load_trained({name.removeprefix("trained/"): x for name, x in tensors.items()})
        return True


def make_meter(
    training: PPOTraining, folder: RunFolder, own: Own | None = None, *, strict: bool = True
) -> tuple[Meter | None, str]:
    """The meter that a run's settings ask for, and what is to be known of it; none where nobody judges.

    Args:
        training: of the run.
        folder: of the run.
        own: what the judge's name may stand for in this process.
        strict: whether a judge that can not be used is an error; else nobody judges, which is said.

    Raises:
        UserError: judge or prompts can not be loaded.
    """
    config = training.config
    if not config.judge:
        return None, ""
    try:
        judge = make_judge(config, training.device, own)
    except UserError as error:
        if strict or config.stop_at_peak:
            raise
        return None, f"nobody judges this run: {error}"
    held_out = config.held_out or config.prompts
    prompts = load_prompts(held_out, training.tokenizer, config.prompt_limit).items
    if not prompts:
        raise UserError(f"there is no prompt for the judge: check {held_out} and prompt_limit")
    said = (
        "" if config.held_out else "the judge asks prompts that the run is trained on, since held_out names no others"
    )
    return Meter(training, judge, prompts, folder), said


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None
