"""Trains a reward model on preference pairs; every text of a step goes through the network once."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from proximo.language.batching import padded_share, right_padded, token_budget_batches
from proximo.language.configuration import RewardConfig
from proximo.language.data import Pair, check_fields, load_pairs, read_rows
from proximo.language.models import choose_device
from proximo.language.preferences import bradley_terry, preference_report
from proximo.language.reward_model import RewardModel
from proximo.language.samples import sample_rows
from proximo.language.stack import split_decoder
from proximo.language.supervised import (
    Clock,
    Optimizer,
    check_finite,
    computing,
    output_folder,
    shuffled_runs,
    steps_of,
)
from proximo.runs.configuration import to_toml
from proximo.runs.console import Column, Mode, Progress
from proximo.runs.files import write_atomically
from proximo.runs.metrics import MetricsWriter

COLUMNS = (
    Column("loss", "loss", "loss", ".3f"),
    Column("accuracy", "accuracy on the batch", "batch accuracy", ".3f"),
    Column("validation/accuracy", "held-out accuracy", "held-out accuracy", ".3f"),
    Column("learning_rate", "learning rate", "lr", ".1e"),
    Column("tokens_per_second", "tokens/s", "tokens/s", ",.0f"),
)
_HELD_GROUPS = 8  # parts of like length of a step whose graphs are held together: little padding


class Scorer(Protocol):
    """What can be trained on pairs."""

    device: torch.device
    head: nn.Linear
    tokenizer: Any

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """`[n]`, float32, with gradient."""

    def score(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """`[n]`, without gradient, in parts."""

    def body(self) -> Iterable[nn.Parameter]:
        """Parameters but the head's."""


def train_reward(
    config: RewardConfig, *, console: Mode = "auto", human_ceiling: dict[str, float] | None = None
) -> dict[str, Any]:
    """Trains a reward model and writes it as a plain sequence-classification folder.

    Args:
        config: what to do.
        console: how progress is shown.
        human_ceiling: what people agree on among themselves, to be reported beside the accuracies.

    Returns:
        The held-out report after standardisation (see `preference_report`), mean and std of the raw scores, seconds.

    Raises:
        UserError: model, data or output can not be used, or the loss is not finite.
    """
    output = output_folder(config.output)
    reward = RewardModel.from_language_model(
        config.model,
        layers=config.layers,
        seed=config.seed,
        device=choose_device(config.device),
        trust_remote_code=config.trust_remote_code,
        token_budget=config.token_budget,
        compute=config.compute,
    )
    loaded = load_pairs(config.data, reward.tokenizer, config.token_limit)
    held_out = load_pairs(config.validation, reward.tokenizer, config.token_limit).items if config.validation else []
    samples = standardisation_rows(config, reward, loaded.items)
    write_atomically(output / "config.toml", to_toml(config).encode())
    steps = steps_of(len(loaded.items), config.batch, config.epochs)
    with (
        MetricsWriter(output, tensorboard=False) as metrics,
        Progress("reward model", steps, "steps", console, folder=output, columns=COLUMNS) as progress,
    ):
        metrics.truncate_after(-1)  # of an earlier training into this folder
        if loaded.message:
            progress.message(loaded.message)
        training = RewardTraining(config, reward, loaded.items, freeze=config.freeze, say=progress.message)
        result = run_training(training, Clock(steps, config.minutes), held_out, metrics, progress)
        result |= reward.standardise(samples)
        if held_out:
            report = evaluate(reward, held_out, scale=reward.std)
            result |= report | {f"human/{name}": x for name, x in (human_ceiling or {}).items()}
            metrics.write(result["steps"], {f"final/{name}": x for name, x in result.items() if name != "calibration"})
            reward.about |= {"report": result}
        reward.save(output)
    return result | {"rows": len(loaded.items), "dropped_rows": loaded.dropped}


class RewardTraining:
    """A scorer, its optimiser and its pairs.

    Args:
        config: what to do.
        scorer: what is trained, on its device.
        pairs: what people preferred, in its tokens.
        freeze: lowest layers that stay as they are (reward models only); their states are computed once.
        say: told what takes long.
    """

    def __init__(
        self,
        config: RewardConfig,
        scorer: Any,
        pairs: Sequence[Pair],
        *,
        freeze: int = 0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.config, self.scorer, self.pairs = config, scorer, pairs
        self.texts, self.chosen, self.rejected = unique_texts(pairs)
        self.label = torch.tensor([p.label for p in pairs])
        self.margin = torch.tensor([p.margin for p in pairs])
        self.trunk = FrozenTrunk(scorer, freeze, self.texts, config, say) if freeze else None
        rate, head_rate = config.learning_rate, config.head_learning_rate
        body = [p for p in scorer.body() if p.requires_grad]
        head = scorer.head.parameters()
        self.optimizer = Optimizer([(body, rate), (head, rate if head_rate is None else head_rate)], config)
        self.batches = shuffled_runs(len(pairs), config.batch, config.seed)
        self.steps = 0

    def step(self, progress: float) -> dict[str, float]:
        """One gradient step on the next batch of pairs.

        Args:
            progress: in [0, 1], for the step size.

        Raises:
            UserError: the loss is not finite; the batch is kept beside the model.
        """
        started = time.perf_counter()
        batch = next(self.batches)
        values, used = self.backward(batch)
        rate, norm = self.optimizer.step(progress)
        self.steps += 1
        texts = [self.scorer.tokenizer.decode(self.texts[i]) for i in used]
        check_finite(values["loss"], norm, Path(self.config.output or "."), texts, self.steps)
        tokens = sum(len(self.texts[i]) for i in used)
        speed = tokens / (time.perf_counter() - started)
        return values | {"learning_rate": rate, "grad_norm": norm, "texts": len(used), "tokens_per_second": speed}

    def backward(self, batch: Sequence[int]) -> tuple[dict[str, float], list[int]]:
        """Adds the gradient of the mean loss over a batch of pairs.

        The loss couples texts, so it is taken on all scores of the step at once; its gradient to them then goes back
        through the parts that the texts were scored in. How they were cut changes nothing.

        Returns:
            loss and accuracy, and the texts that were read.
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
        right = ((chosen > rejected) == (label > 0.5)).float().mean()
        share = padded_share(lengths, groups)
        return {"loss": float(loss.detach()), "accuracy": float(right), "padded_share": share}, used

    def scores(self, texts: Sequence[int]) -> Tensor:
        """Scores of texts by index, `[n]`."""
        if self.trunk is not None:
            return self.trunk.scores(texts)
        return self.scorer.scores([self.texts[i] for i in texts])


class FrozenTrunk:
    """The lowest layers of a reward model, which stay as they are: their states of each text are kept.

    Args:
        reward: its other layers are trained in place.
        layers: how many are frozen.
        texts: tokens of all texts.
        config: kept_states bounds the memory.
        say: told what takes long.
    """

    def __init__(
        self,
        reward: RewardModel,
        layers: int,
        texts: Sequence[Sequence[int]],
        config: RewardConfig,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.reward, self.texts, self.config = reward, texts, config
        decoder: Any = reward.decoder
        self.trunk, self.top = split_decoder(decoder, len(decoder.layers) - layers)
        # The top is a copy: it takes its place in the model, so that what is trained is what is saved.
        for i, layer in enumerate(self.top.layers):  # type: ignore[arg-type]
            decoder.layers[layers + i] = layer
        decoder.norm = self.top.norm
        self.trunk.requires_grad_(False)
        self.top.requires_grad_(True)
        size = sum(map(len, texts)) * reward.head.in_features * 4
        self.kept: list[Tensor] | None = None
        if size <= config.kept_states * 1e9:
            say(f"computing the states of {len(texts)} texts after {layers} layers once ({size / 1e6:,.0f} MB)")
            self.kept = self._all_states()

    def scores(self, indices: Sequence[int]) -> Tensor:
        """Scores of texts, `[n]`, with gradient to the upper layers."""
        lengths = torch.tensor([len(self.texts[i]) for i in indices])
        states = self._states(indices)
        with computing(self.reward.device, self.config.compute):
            hidden = self.top(inputs_embeds=states, use_cache=False).last_hidden_state
        return self.reward.head_scores(hidden[torch.arange(len(indices)), lengths - 1])

    def _states(self, indices: Sequence[int]) -> Tensor:
        if self.kept is None:
            return self._forward(indices)
        return nn.utils.rnn.pad_sequence([self.kept[i] for i in indices], batch_first=True)

    @torch.no_grad()
    def _forward(self, indices: Sequence[int]) -> Tensor:
        tokens, _ = right_padded([self.texts[i] for i in indices])
        with computing(self.reward.device, self.config.compute):
            return self.trunk(input_ids=tokens.to(self.reward.device), use_cache=False).last_hidden_state.float()

    def _all_states(self) -> list[Tensor]:
        kept: list[Tensor] = [torch.empty(0)] * len(self.texts)
        for group in token_budget_batches([len(t) for t in self.texts], self.config.token_budget):
            for i, states in zip(group, self._forward(group), strict=True):
                kept[i] = states[: len(self.texts[i])].clone()
        return kept


def run_training(
    training: RewardTraining, clock: Clock, held_out: Sequence[Pair], metrics: MetricsWriter, progress: Progress
) -> dict[str, Any]:
    """Steps until the clock ends, a look at held-out pairs after each epoch; steps and seconds."""
    per_epoch = steps_of(len(training.pairs), training.config.batch, 1.0)
    clock = Clock(clock.steps, clock.minutes)
    while not clock.ended:
        values: dict[str, Any] = training.step(clock.progress)
        clock.done += 1
        if held_out and clock.done % per_epoch == 0 and not clock.ended:
            report = evaluate(training.scorer, held_out[: training.config.validation_pairs])
            values |= {f"validation/{name}": x for name, x in report.items() if name != "calibration"}
        metrics.write(clock.done, values)
        progress.update(clock.done, values)
    return {"steps": clock.done, "seconds": round(clock.seconds, 1)}


def evaluate(scorer: Any, pairs: Sequence[Pair], scale: float = 1.0) -> dict[str, Any]:
    """`preference_report` of a scorer on pairs; each text is scored once."""
    texts, chosen, rejected = unique_texts(pairs)
    scores = scorer.score(texts)
    return preference_report(pairs, scores[chosen], scores[rejected], scale)


def unique_texts(pairs: Sequence[Pair]) -> tuple[list[list[int]], Tensor, Tensor]:
    """The texts of pairs, each once, and for each pair the index of its chosen and its rejected text."""
    known: dict[tuple[int, ...], int] = {}
    chosen = torch.tensor([known.setdefault(tuple(p.chosen), len(known)) for p in pairs])
    rejected = torch.tensor([known.setdefault(tuple(p.rejected), len(known)) for p in pairs])
    return [list(text) for text in known], chosen, rejected


def standardisation_rows(config: RewardConfig, reward: RewardModel, pairs: Sequence[Pair]) -> list[list[int]]:
    """Tokens of the texts whose scores shall have mean 0 and variance 1."""
    if not config.standardise_on:
        texts, _, _ = unique_texts(pairs)
        return texts[: config.standardise_rows]
    return [
        reward.tokens(row["prompt"], row["response"], finished=row.get("finished", True))
        for row in standard_rows(config)
    ]


def standard_rows(config: RewardConfig) -> list[dict[str, Any]]:
    """Rows with prompt and response to standardise on: of the file, or the SFT model's own responses.

    Raises:
        UserError: the file or the model can not be used.
    """
    if config.policy:
        return sample_rows(
            config.policy,
            config.standardise_on,
            config.standardise_rows,
            seed=config.seed,
            trust_remote_code=config.trust_remote_code,
        )
    rows = read_rows(config.standardise_on, config.standardise_rows)
    check_fields(rows, ("prompt", "response"))
    return rows.values
