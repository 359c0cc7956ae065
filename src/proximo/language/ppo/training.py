"""PPO on a language model in memory: sample -> reward -> estimate advantages -> update -> record."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.algorithms.base import Counters, OnPolicyTraining
from proximo.algorithms.ppo import PPO, algorithm_of
from proximo.core.batch import Batch
from proximo.core.statistics import explained_variance, root_mean_square, weighted_mean, weighted_moments
from proximo.core.updates.update import UpdateReport, UpdateTask
from proximo.errors import UserError
from proximo.language.compute.precision import chosen_type
from proximo.language.data.prompts import Prompt, PromptSource
from proximo.language.lineage import check_read, digest_of
from proximo.language.ppo import replay
from proximo.language.ppo.across import RULES, of_all, share_of_all
from proximo.language.ppo.rollout import correlation, estimate, kl_statistics, token_rewards, with_reference
from proximo.language.ppo.setup import (
    RATIO_QUANTILE,
    RATIO_TOLERANCE,
    check_fit,
    check_shares,
    computing_device,
    kl_controller,
    learning_rate,
    make_optimizer,
    make_policy,
    refers,
)
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.informative import reward_scale, reward_statistics
from proximo.language.rewards.terms import RewardTerm, combine
from proximo.language.sampling.engine import Sampler, Source, checked_sampler, load_checked
from proximo.language.sampling.sampler import Samples, SamplingParameters, stop_tokens
from proximo.language.sampling.texts import Texts, text_statistics, to_batch, to_texts
from proximo.runs.config.toml import to_toml
from proximo.runs.replay.ring import Ring
from proximo.runs.replay.undo import Undo
from proximo.runs.storage import random_state
from proximo.runs.storage.checkpoint import under
from proximo.scale.measured import merged
from proximo.scale.mesh import ALONE, Mesh

PARITY = 1e-3  # mean |log-prob of the sampler - of the trainer|, nats, up to which the sampler's are taken


@dataclass
class Progress(Counters):
    """Counters of a run."""

    responses: int = 0
    told_apart: int = 0
    """Iterations in which the responses to some prompt got different rewards; counted where prompts have several."""
    unjudged: int = 0
    """Iterations in which no reward applied to any response: each was None."""


@dataclass(frozen=True)
class Rollout:
    """One iteration's responses and what was said of them."""

    batch: Batch
    """As it was sampled: with the old log-probs and values, without advantages and returns."""
    samples: Samples
    texts: Texts
    scores: Tensor
    """`[B]`, all weighted reward terms as one, by `combine`."""
    rewarded: Tensor
    """`[B]`, after clip and floor: what is optimised beside the KL."""
    each: Mapping[str, Tensor]
    """Per reward term, `[B]`."""
    ref_log_prob: Tensor | None
    """`[B, R]`; None where there is no reference, see `refers`."""


def _whose_log_probs(config: PPOConfig) -> bool | None:
    """Whether the ratio's denominator is the sampler's log-probs; None where their first ones are to decide.

    Adapters are merged into the weights to sample, and in bfloat16 the sum rounds otherwise than its parts. The first
    iteration can not show it: its adapters are 0.
    """
    if config.old_log_probs == "auto" and config.sharing.mode == "lora" and config.compute != "float32":
        return False
    return {"auto": None, "sampler": True, "rescore": False}[config.old_log_probs]


class PPOTraining(OnPolicyTraining[Rollout]):
    """Policy, reference, critic, reward terms and optimiser of one run.

    Args:
        config: what to do.
        model: `transformers` causal language model to train, on its device; it is changed.
        tokenizer: its tokenizer, with an EOS token.
        prompts: what is responded to.
        rewards: what scores the responses.
        reward_decoder: what a separate critic starts from (`critic_from = reward`).
        reward_head: what reads its first values off that; None starts with values of 0.
        sampler: draws the responses; our own if None.
        mesh: the ranks that train together, each on its share of the prompts.
        weights: folder of the model's, where they are not loaded (`unloaded_causal_model`).

    Raises:
        UserError: settings, model and data that do not fit together.
    """

    def __init__(
        self,
        config: PPOConfig,
        model: Any,
        tokenizer: Any,
        prompts: Sequence[Prompt],
        rewards: Sequence[RewardTerm],
        *,
        reward_decoder: Any = None,
        reward_head: Any = None,
        sampler: Sampler | None = None,
        mesh: Mesh = ALONE,
        weights: Path | None = None,
    ) -> None:
        super().__init__()
        self.mesh = mesh
        self.sampler = checked_sampler(sampler)
        self.config, self.tokenizer, self.rewards = config, tokenizer, list(rewards)
        check_fit(config, model, tokenizer, prompts, self.rewards)
        check_shares(config, mesh.size)
        device = computing_device(config, model, mesh)
        self.config = config = replace(config, compute=chosen_type(config.compute, device))
        self.algorithm: PPO = algorithm_of(config.update)
        self.policy = make_policy(config, model, reward_decoder, reward_head, mesh, weights)
        self.roles = self.policy.roles
        self.device = self.roles.head.weight.device
        self.optimizer = make_optimizer(config, self.roles, mesh)
        self.prompts = PromptSource(prompts, config.seed)
        self.noise = torch.Generator().manual_seed(config.seed * 2 + 1)
        self.shuffle = torch.Generator().manual_seed(config.seed * 2 + 2)
        if mesh.rank:
            self._draw_anew()
        stop = stop_tokens(model, tokenizer, prompts)
        self.parameters = SamplingParameters(config.response_limit, stop, config.temperature)
        self.kl = kl_controller(config)
        self.progress: Progress = Progress()
        self.ended: str | None = None
        """Why there is nothing left to do, once there is not."""
        self.sampler_log_probs = _whose_log_probs(config)
        self.parity: float | None = None
        self.gap: float | None = None
        """Mean |log-prob of the sampler - of the trainer| in this iteration, nats; None where it was not measured."""
        self.last: Rollout | None = None
        self.learnt: tuple[Batch, float] | None = None
        """The last iteration's batch with its advantages, and the price of divergence that they were estimated with."""
        self.before = Undo(self.optimizer, self._generators, self.numbers, copies=config.undo)
        self._before = self._cursor
        self.ring = Ring(
            self.before,
            self.optimizer,
            config.replay_mb if mesh.alone else 0.0,  # an update of several ranks can not be repeated by one
            lambda: {"kind": config.kind, "config": to_toml(config)},
        )
        self.other_rows = False
        """Whether `load` takes a checkpoint of other prompts."""

    @property
    def spread(self) -> bool:
        """Whether the weights lie in parts on several ranks, so that no rank can compute alone."""
        return self.roles.spread is not None

    def iterate(self) -> dict[str, Any]:
        """See `OnPolicyTraining`.

        Raises:
            LostRankError: another rank is gone.
        """
        with self.mesh.waiting():
            return super().iterate()

    @property
    def share_done(self) -> float:
        """Share of the responses that are done."""
        return self.progress.responses / self.config.responses

    def learning_rate(self, progress: float) -> float | None:
        """By the schedule, unless the updates steer it by their KL."""
        return None if self.algorithm.adaptive_kl is not None else learning_rate(self.config, progress)

    def prepare(self) -> None:
        """Forget the last rollout: two need not live at a time."""
        self._started = time.perf_counter()
        self.last = self.learnt = None
        self.policy.tokens_read = self.policy.tokens_paid = 0

    def collect(self) -> Rollout:
        """Sample responses and have them scored."""
        group = self.algorithm.responses_per_prompt
        taken = self.prompts.take(self.config.batch // group)
        # A group stays on one rank.
        prompts = [p for p in taken[self.mesh.share(len(taken))] for _ in range(group)]
        # What is scored below waits for all ranks where the weights are spread: an error above it is one of all there.
        with self.mesh.together() if self.spread else nullcontext():
            with self._phase("sample"), self.policy.computing():
                samples = self.sample([p.tokens for p in prompts])
            batch = to_batch(prompts, samples)
            with self._phase("reward"):
                texts = to_texts(prompts, samples, self.tokenizer)
                scores, each = combine(self.rewards, texts, self.config.combine)
                rewarded = self._rewarded(scores, samples.finished.cpu())
        with self._phase("score"), self.mesh.apart() if self.spread else nullcontext():
            batch = self._with_old(batch, samples)
            reference = self.policy.reference_log_probs(batch) if refers(self.config) else None
        self.last = Rollout(batch, samples, texts, scores, rewarded, each, reference)
        return self.last

    def estimate(self, rollout: Rollout) -> Batch:
        """Advantages and returns of the scores less the KL price."""
        rewarded, batch = rollout.rewarded.to(self.device), rollout.batch
        reference, algorithm, config = rollout.ref_log_prob, self.algorithm, self.config
        price = 0.0 if algorithm.kl_in_the_loss else self.kl.coefficient
        rewards = token_rewards(rewarded, batch.log_prob, reference, rollout.samples.lengths, price)
        batch = estimate(
            batch, rewards, algorithm, config.gamma, config.lam, rewarded, config.response_limit, self.mesh
        )
        return with_reference(batch, algorithm, reference, self.kl.coefficient)

    def learnt_from(self, rollout: Rollout, batch: Batch) -> dict[str, Tensor]:
        """See `language.ppo.replay`."""
        return replay.to_tensors(batch, rollout.rewarded, rollout.ref_log_prob)

    def facts(self) -> dict[str, Any]:
        """The price of divergence."""
        return {"kl_coefficient": self.kl.coefficient}

    def task(self, rollout: Rollout, batch: Batch, progress: float) -> UpdateTask:
        """The update of this iteration."""
        return UpdateTask(
            self.policy,
            batch,
            self.optimizer,
            progress=progress,
            generator=self.shuffle,
            split=self.policy.split,
            quantile=RATIO_QUANTILE,
            tolerance=RATIO_TOLERANCE[self.config.compute],
            reward_scale=reward_scale(rollout.rewarded, self.mesh),
            ranks=self.mesh,
            samples=None if self.mesh.alone else self.config.batch,
            numbers=self.numbers,
            measure=False,  # a pass through a language model costs too much for a number
        )

    def updated(self, task: UpdateTask) -> UpdateReport:
        """See `OnPolicyTraining`: what goes wrong on one rank alone ends its process, for the others wait for it.

        Raises:
            BrokenRankError: this rank failed alone, where the weights are spread.
        """
        if not self.spread:
            return super().updated(task)
        with self.mesh.apart():
            return super().updated(task)

    def finish(self, rollout: Rollout, batch: Batch, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Adapt the price of divergence and count."""
        self.learnt = batch, self.kl.coefficient
        if metrics["kl"] is not None:
            self.kl.observe(metrics["kl"], self.config.batch)
        self.progress.responses += self.config.batch
        if metrics.get("equal_groups") is not None:
            self.progress.told_apart += metrics["equal_groups"] < 1
        judged = [metrics.get(f"reward/{term.name}", 0.0) is not None for term in self.rewards]
        self.progress.unjudged += bool(judged) and not any(judged)
        read = (batch.inputs["prompt_lengths"] + rollout.samples.lengths).sum().cpu()
        return {"tokens_per_second": float(self.mesh.sum_across_ranks(read)) / (time.perf_counter() - self._started)}

    def sample(
        self, prompts: Sequence[Sequence[int]], noise: torch.Generator | None = None, longest: int | None = None
    ) -> Samples:
        """Responses of the policy as it is.

        Args:
            prompts: token ids.
            noise: draws the tokens; the run's own if None.
            longest: cap below the run's own, tokens.
        """
        parameters = self.parameters
        if longest is not None and longest < parameters.max_tokens:
            parameters = replace(parameters, max_tokens=longest)
        with self.roles.as_sampler() as stack:
            weights = self.roles.sampled_weights
            source = Source(stack, self.roles.head, self.optimizer.steps, weights, self.policy.cache)
            load_checked(self.sampler, source, prompts, parameters)
            return self.sampler(prompts, parameters, generator=noise or self.noise)

    def _rewarded(self, scores: Tensor, finished: Tensor) -> Tensor:
        limit, floor = self.config.score_clip, self.config.missing_eos_floor
        if limit is not None:
            scores = scores.clamp(-limit, limit)
        return scores if floor is None else torch.where(finished, scores, scores.clamp_max(floor))

    @torch.no_grad()
    def _with_old(self, batch: Batch, samples: Samples) -> Batch:
        """The batch with the old policy's log-probs and values: the sampler's own, if they are the trainer's too."""
        self.gap = None
        if self.sampler_log_probs is None or (self.sampler_log_probs and self.parity is None):
            _, part = next(self.policy.parts(batch))
            real = part.weight > 0
            gap = (self.policy.evaluate(part).log_prob - part.log_prob)[real].abs().mean()
            if self.spread:  # one decision for all, which then make the same passes
                gap = self.mesh.gather(gap.detach()).max()
            self.parity = self.gap = float(gap)
            if self.sampler_log_probs is None:
                self.sampler_log_probs = self.parity <= PARITY
        if self.sampler_log_probs and not self.algorithm.critic:
            return batch
        if self.sampler_log_probs and self.roles.separate:
            return batch.replace(value=self.policy.values(batch))
        if self.sampler_log_probs and samples.hidden is not None:
            # The sampler kept the states that predicted each token: the values need no pass of their own.
            return batch.replace(value=self.roles.value_head(samples.hidden.float()).squeeze(-1) * batch.weight)
        log_prob, value = self.policy.scored(batch)
        if self.sampler_log_probs:
            return batch.replace(value=value)
        self.gap = float(weighted_mean((log_prob - batch.log_prob).abs(), batch.weight))
        return batch.replace(value=value, log_prob=log_prob)

    def measure(self, seen: Rollout, batch: Batch, report: UpdateReport) -> dict[str, Any]:
        """Metrics beside the update's own."""
        lengths = seen.samples.lengths.float().cpu()
        real = batch.weight > 0
        values = {
            "score": float(seen.scores.mean()),
            "score_std": float(seen.scores.std(unbiased=False)),
            "rewarded": float(seen.rewarded.mean()),
            **reward_statistics(of_all(seen.rewarded, self.mesh)),
            **self._groups(seen.rewarded),
            **self._terms(seen),
            **kl_statistics(batch, seen.ref_log_prob),
            "kl_coefficient": self.kl.coefficient,
            "explained_variance": float(explained_variance(batch.value[real], batch.returns[real])),
            "value_rms": float(root_mean_square(batch.value, batch.weight)),
            "return_rms": float(root_mean_square(batch.returns, batch.weight)),
            "return_std": float(weighted_moments(batch.returns, batch.weight)[1].sqrt()),
            "response_length": float(lengths.mean()),
            "finished": float(seen.samples.finished.float().mean()),
            **text_statistics(seen.samples),
            "score_length_correlation": correlation(of_all(seen.scores, self.mesh), of_all(lengths, self.mesh)),
            "padded_share": 1 - share_of_all(self.policy.tokens_read, self.policy.tokens_paid, self.mesh),
            "sampler_log_probs": float(bool(self.sampler_log_probs)),
            "sampler_gap": self.gap,
        }
        return merged(values, len(batch), self.mesh, RULES, of_squares=float(lengths.sum()))

    def _terms(self, seen: Rollout) -> dict[str, float | None]:
        """Of each reward term, over the responses of all ranks: it may apply to some of them, on some ranks to none."""
        told: dict[str, float | None] = {}
        for term in self.rewards:
            name, scores = term.name, of_all(seen.each[term.name], self.mesh)
            told[f"reward/{name}"] = _mean_where_it_applies(scores)
            if bool(scores.isnan().any()):
                told[f"unrewarded/{name}"] = float(scores.isnan().float().mean())
            model: Any = getattr(term, "model", None)
            if hasattr(model, "std"):
                told[f"reward_raw/{name}"] = float(scores.mean()) * model.std + model.mean
            if hasattr(model, "cut_share"):
                mine = len(seen.each[name])
                cut = share_of_all(model.cut_share * mine, mine, self.mesh)
                told |= {f"reward_cut/{name}": cut} if cut > 0 else {}
        return told

    def _groups(self, rewarded: Tensor) -> dict[str, float]:
        """Share of the prompts whose responses all got one reward, which teach nothing; where prompts have several."""
        group = self.algorithm.responses_per_prompt
        if group == 1:
            return {}
        rows = rewarded.view(-1, group)
        return {"equal_groups": float((rows == rows[:, :1]).all(1).float().mean())}

    def texts(self, count: int) -> list[dict[str, Any]]:
        """The last rollout's first `count` responses with their scores."""
        if self.last is None:
            return []
        texts, seen = self.last.texts, self.last
        return [
            {"prompt": texts.prompts[i], "response": texts.responses[i], "score": float(seen.scores[i])}
            for i in range(min(count, len(texts.responses)))
        ]

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the run goes on, as tensors and as JSON."""
        tensors: dict[str, Tensor] = {}
        if not self._in_parts:
            tensors |= {f"trained/{name}": x for name, x in self.roles.trained_state().items()}
            tensors |= {f"optimizer/{name}": x for name, x in self.optimizer.state().items()}
        drawn, generators = random_state.capture(self._generators)
        return tensors | drawn, {
            "progress": dict(vars(self.progress)),
            "ended": self.ended,
            "prompts_taken": self.prompts.taken,
            "prompts_read": self._prompts_read,
            "kl_coefficient": self.kl.coefficient,
            "learning_rate": self.optimizer.learning_rate,
            **({"steps_in_parts": self.optimizer.steps} if self._in_parts else {}),
            "numbers": dict(self.numbers),
            "sampler_log_probs": self.sampler_log_probs,
            "parity": self.parity,
            "random": generators,
        }

    @property
    def _in_parts(self) -> bool:
        """Whether checkpoints hold what is trained in parts, on one rank too: any number of ranks reads them."""
        return self.config.scale.shard == "full"

    def parts(self) -> dict[str, Tensor]:
        """See `Trained`: weights and moments by the parameters' names."""
        if not self._in_parts:
            return {}
        self.optimizer.begin(self.optimizer.steps)
        names = [name for name, p in self.roles.named_parameters() if p.requires_grad]
        pairs = zip(names, self.optimizer.parts(), strict=True)
        return {f"{kind}/{name}": x for name, part in pairs for kind, x in part.items()}

    @cached_property
    def _prompts_read(self) -> str:
        return digest_of(prompt.tokens for prompt in self.prompts.prompts)

    @property
    def done(self) -> int:
        """Responses so far."""
        return self.progress.responses

    @property
    def _generators(self) -> dict[str, torch.Generator]:
        return {"noise": self.noise, "shuffle": self.shuffle}

    @property
    def _cursor(self) -> tuple[int, bool | None, float | None]:
        return self.prompts.taken, self.sampler_log_probs, self.parity

    def remember(self) -> None:
        """Note where `rewind` goes back to."""
        self.before.remember()
        self._before = self._cursor

    def rewind(self) -> bool:
        """Go back to before the iteration in progress; False if weights have moved and there is no copy of them."""
        if self.roles.spread is not None:
            self.roles.spread.settle()
        if not self.before.undo():
            return False
        self.prompts.taken, self.sampler_log_probs, self.parity = self._before
        return True

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            UserError: it is of other roles, or of prompts that are read as other tokens.
        """
        check_read(state, "prompts_read", self._prompts_read, allowed=self.other_rows)
        if ("steps_in_parts" in state) != self._in_parts:
            raise UserError(
                f"the checkpoint was written with another scale.shard than {self.config.scale.shard}: resume with the "
                "one that the run was begun with"
            )
        if self._in_parts:
            self.optimizer.begin(state["steps_in_parts"])
        else:
            self.roles.load_trained(under("trained/", tensors))
            self.optimizer.load_state(under("optimizer/", tensors))
        random_state.restore(tensors, state["random"], self._generators, reshared=self.reshared)
        self.progress, self.ended = Progress(**state["progress"]), state["ended"]
        self.prompts.taken = state["prompts_taken"]
        self.kl.coefficient = state["kl_coefficient"]
        self.optimizer.learning_rate = state["learning_rate"]
        self.numbers.update({name: float(x) for name, x in state["numbers"].items()})
        self.sampler_log_probs, self.parity = state["sampler_log_probs"], state["parity"]

    def own(self, name: str) -> bool:
        """Whether what `state` gives under that name is of one rank alone."""
        return super().own(name) or name in ("sampler_log_probs", "parity")

    def reshare(self) -> None:
        """Go on with another number of ranks: each draws from here on what none has drawn."""
        self._draw_anew(1 + self.progress.iterations)
        random_state.seed_streams(self.config.seed, self.mesh.rank, 1 + self.progress.iterations)

    def _draw_anew(self, index: int = 0) -> None:
        """Give this rank random numbers of its own, from the run's seed and `index`."""
        seed = self.config.seed
        words = np.random.SeedSequence((abs(seed) * 2 + (seed < 0), index, self.mesh.rank)).generate_state(2)
        self.noise.manual_seed(int(words[0]))
        self.shuffle.manual_seed(int(words[1]))

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


def _mean_where_it_applies(scores: Tensor) -> float | None:
    """Of a reward term; None where it applies to no response."""
    return None if bool(scores.isnan().all()) else float(scores.nanmean())
