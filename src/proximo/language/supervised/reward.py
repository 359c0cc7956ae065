"""Trains a reward model on preference pairs; every text of a step goes through the network once."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.language.config import RewardConfig
from proximo.language.data.batching import padded_share, token_budget_batches
from proximo.language.data.dataset import Loaded, Pair, load_pairs
from proximo.language.lineage import digest_of
from proximo.language.models.folders import check_savable
from proximo.language.models.loading import choose_device
from proximo.language.rewards.frozen_trunk import FrozenTrunk
from proximo.language.rewards.preferences import agreement, bradley_terry, evaluate, unique_texts
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.rewards.standardise import StandardTexts, standard_texts, standardise
from proximo.language.supervised.steps import Optimizer, check_finite, shuffled_batches, shuffled_runs
from proximo.language.supervised.training import Stage, SupervisedTraining, run_stage
from proximo.runs.console.progress import Column, Mode
from proximo.runs.session.opening import Call
from proximo.runs.session.session import Session

COLUMNS = (
    Column("loss", "loss", "loss", ".3f"),
    Column("accuracy", "accuracy on the batch", "batch accuracy", ".3f"),
    Column("validation/accuracy", "held-out accuracy", "held-out accuracy", ".3f"),
    Column("learning_rate", "learning rate", "lr", ".1e"),
    Column("tokens_per_second", "tokens/s", "tokens/s", ",.0f"),
)
_HELD_GROUPS = 8  # parts of like length of a step whose graphs are held together: little padding


def train_reward(
    config: RewardConfig,
    *,
    console: Mode = "auto",
    human_ceiling: dict[str, float] | None = None,
    call: Call | None = None,
) -> dict[str, Any]:
    """Trains a reward model and writes it as a plain sequence-classification folder.

    Args:
        config: what to do.
        console: how progress is shown.
        human_ceiling: what people agree on among themselves, to be reported beside the accuracies.
        call: how this call begins and ends.

    Returns:
        The held-out report after standardisation (see `preference_report`), mean and std of the raw scores, seconds; of
        a training that was stopped, `stopped` and steps.

    Raises:
        UserError: model, data or output can not be used, or the loss is not finite.
    """
    return run_stage(config, partial(_stage, ceiling=human_ceiling or {}), console=console, call=call)


def _stage(config: RewardConfig, ceiling: Mapping[str, float]) -> Stage:
    reward = RewardModel.from_language_model(
        config.model,
        layers=config.layers,
        seed=config.seed,
        device=choose_device(config.device),
        trust_remote_code=config.trust_remote_code,
        day=config.date,
        token_budget=config.token_budget,
        compute=config.compute,
    )
    limits: dict[str, Any] = {"token_limit": config.token_limit, "context": reward.context}
    loaded = load_pairs(config.data, reward.tokenizer, part=config.part, **limits)
    held_out = load_pairs(config.validation, reward.tokenizer, **limits) if config.validation else Loaded([])
    standard = standard_texts(config, config.policy or config.model)
    training = RewardTraining(config, reward, loaded.items, held_out.items, freeze=config.freeze)
    check_savable(reward.model, reward.tokenizer)

    def finish(session: Session) -> dict[str, Any]:
        scale = standardise(reward, standard, reader(reward, standard))
        results = training.report(session, scale, ceiling)
        reward.about |= {"report": results} if held_out.items else {}
        reward.save(config.output)
        return results | {"rows": len(loaded.items), "dropped_rows": loaded.dropped}

    messages = (loaded.message, held_out.message, standard.message)
    return Stage("reward model", COLUMNS, training, messages, training.look, finish)


def reader(reward: RewardModel, texts: StandardTexts) -> Callable[[Mapping[str, Any]], list[int]]:
    """How a reward model reads rows as it reads them in PPO: as sampled where it reads as their model, or as text."""
    alike = texts.tokenizer is not None and reward.reads_as(texts.tokenizer)

    def read(row: Mapping[str, Any]) -> list[int]:
        if alike:
            return reward.sampled_tokens(row["prompt"], *row["tokens"], finished=row["finished"])
        return reward.tokens(row["prompt"], row["response"], finished=row["finished"])

    return read


class RewardTraining(SupervisedTraining):
    """A scorer, its optimiser and its pairs.

    A step takes pairs from all over the file; or, where pairs share texts so that there are fewer texts than pairs,
    neighbours, as it reads each of its texts once.

    Args:
        config: what to do.
        scorer: what is trained, on its device.
        pairs: what people preferred, in its tokens.
        held_out: pairs to look at.
        freeze: lowest layers that stay as they are (reward models only); their states are computed once.
    """

    def __init__(
        self,
        config: RewardConfig,
        scorer: Any,
        pairs: Sequence[Pair],
        held_out: Sequence[Pair] = (),
        *,
        freeze: int = 0,
    ) -> None:
        self.scorer, self.pairs, self.held_out = scorer, pairs, held_out
        self.texts, self.chosen, self.rejected = unique_texts(pairs)
        self.label = torch.tensor([p.label for p in pairs])
        self.margin = torch.tensor([p.margin for p in pairs])
        self.trunk = FrozenTrunk(scorer, freeze, self.texts, config) if freeze else None
        rate, head_rate = config.learning_rate, config.head_learning_rate
        body = [p for p in scorer.body() if p.requires_grad]
        head = scorer.head.parameters()
        optimizer = Optimizer([(body, rate), (head, rate if head_rate is None else head_rate)], config)
        order = shuffled_runs if len(self.texts) < len(pairs) else shuffled_batches
        super().__init__(config, optimizer, len(pairs), order)

    def prepare(self, tell: Callable[[str], None]) -> None:
        """Compute the states of frozen layers."""
        if self.trunk is not None:
            self.trunk.remember(tell)

    def step(self, progress: float) -> dict[str, float]:
        """One gradient step on the next batch of pairs.

        Args:
            progress: in [0, 1], for the step size.

        Raises:
            UserError: the loss is not finite; the batch is kept beside the model.
        """
        started = time.perf_counter()
        batch = next(self.batches)
        with self.interruptible():
            values, used = self.backward(batch)
        norm = self.optimizer.clip()
        check_finite(values["loss"], norm, self.config.output, lambda: self._decoded(used), self.steps + 1)
        rate = self.optimizer.step(progress)
        self.steps += 1
        tokens = sum(len(self.texts[i]) for i in used)
        speed = tokens / (time.perf_counter() - started)
        return values | {"learning_rate": rate, "grad_norm": norm, "texts": len(used), "tokens_per_second": speed}

    def rows_read(self) -> str:
        """See `SupervisedTraining`."""
        return digest_of(part for pair in self.pairs for part in (pair.chosen, pair.rejected))

    def _decoded(self, texts: Sequence[int]) -> list[str]:
        return [self.scorer.tokenizer.decode(self.texts[i]) for i in texts]

    def backward(self, batch: Sequence[int]) -> tuple[dict[str, float], list[int]]:
        """Adds the gradient of the mean loss over a batch of pairs.

        The loss couples texts, so it is taken on all scores of the step at once; its gradient to them then goes back
        through the parts that the texts were scored in. How they were cut changes nothing.

        Returns:
            loss, and accuracy where a pair is not at even odds; and the texts that were read.
        """
        used = sorted({int(i) for pair in batch for i in (self.chosen[pair], self.rejected[pair])})
        place = {text: i for i, text in enumerate(used)}
        lengths = [len(self.texts[i]) for i in used]
        held = sum(lengths) <= self.config.token_budget  # else the parts' graphs are made again, one at a time
        budget = max(max(lengths), sum(lengths) // _HELD_GROUPS) if held else self.config.token_budget
        groups = token_budget_batches(lengths, budget)
        with torch.set_grad_enabled(held):
            parts = [self.scores([used[i] for i in group]) for group in groups]
        order = torch.tensor([i for group in groups for i in group])
        scores = torch.empty(len(used)).index_copy(0, order, torch.cat(parts).detach().cpu()).requires_grad_()
        chosen = scores[[place[int(self.chosen[pair])] for pair in batch]]
        rejected = scores[[place[int(self.rejected[pair])] for pair in batch]]
        label = self.label[batch]
        loss = bradley_terry(chosen, rejected, label, self.margin[batch]).mean()
        (loss + self.config.centre * (chosen + rejected).square().mean()).backward()
        assert scores.grad is not None
        for group, part in zip(groups, parts, strict=True):
            part = part if held else self.scores([used[i] for i in group])
            part.backward(scores.grad[group].to(part.device))
        values = {"loss": float(loss.detach()), "padded_share": padded_share(lengths, groups)}
        told = agreement((chosen - rejected).detach().numpy(), label.numpy())
        if (decided := ~np.isnan(told)).any():
            values["accuracy"] = float(told[decided].mean())
        return values, used

    def scores(self, texts: Sequence[int]) -> Tensor:
        """Scores of texts by index, `[n]`."""
        if self.trunk is not None:
            return self.trunk.scores(texts)
        return self.scorer.scores([self.texts[i] for i in texts])

    def look(self) -> dict[str, float | None]:
        """A look at held-out pairs, after each epoch but the last."""
        if not self.held_out or self.clock.ended:
            return {}
        report = evaluate(self.scorer, self.held_out[: self.config.validation_pairs])
        return {f"validation/{name}": x for name, x in report.items() if name != "calibration"}

    def report(self, session: Session, scale: Mapping[str, Any], ceiling: Mapping[str, float]) -> dict[str, Any]:
        """Results on all held-out pairs, which are the last row of the metrics too.

        Args:
            session: of the training.
            scale: what `standardise` gave.
            ceiling: see `train_reward`.
        """
        results = self.summary | dict(scale)
        if self.held_out:
            results |= evaluate(self.scorer, self.held_out, scale=scale["std"])
            results |= {f"human/{name}": x for name, x in ceiling.items()}
            numbers = {f"final/{name}": x for name, x in results.items() if name != "calibration"}
            session.recorder.metrics.write(self.steps, numbers)
        return results
