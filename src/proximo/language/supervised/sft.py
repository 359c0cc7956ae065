"""Supervised fine-tuning: -log p(response | prompt), on response tokens only."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from proximo.language.compute.precision import computing
from proximo.language.compute.recomputing import recomputing
from proximo.language.config import SFTConfig
from proximo.language.data.batching import padded_share, right_padded, token_budget_batches
from proximo.language.data.dataset import Example, Loaded, load_examples
from proximo.language.lineage import digest_of
from proximo.language.models.context import context_of
from proximo.language.models.decoder import check_freeze
from proximo.language.models.folders import check_savable, generates, save_folder
from proximo.language.models.linear_head import linear_head
from proximo.language.models.loading import choose_device, load_causal_model, load_tokenizer
from proximo.language.roles.lm_head import token_log_probs
from proximo.language.supervised.steps import Optimizer, check_finite, on, shuffled_batches
from proximo.language.supervised.training import Stage, SupervisedTraining, run_stage
from proximo.runs.console.progress import Column, Mode
from proximo.runs.session.opening import Call
from proximo.runs.session.session import Session

COLUMNS = (
    Column("loss", "loss", "loss", ".3f", " nats/token"),
    Column("validation_loss", "validation loss", "validation", ".3f"),
    Column("learning_rate", "learning rate", "lr", ".1e"),
    Column("tokens_per_second", "tokens/s", "tokens/s", ",.0f"),
)


def train_sft(config: SFTConfig, *, console: Mode = "auto", call: Call | None = None) -> dict[str, Any]:
    """Fine-tunes a causal language model and writes it as a plain `transformers` folder.

    Args:
        config: what to do.
        console: how progress is shown.
        call: how this call begins and ends.

    Returns:
        Numbers of the run: validation losses before and after (nats per token), steps, seconds, dropped rows; of one
        that was stopped, `stopped` and steps.

    Raises:
        UserError: model, data or output can not be used, or the loss is not finite.
    """
    return run_stage(config, _stage, console=console, call=call)


def _stage(config: SFTConfig) -> Stage:
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.trust_remote_code, day=config.date)
    model = load_causal_model(
        config.model, device=choose_device(config.device), trust_remote_code=config.trust_remote_code
    )
    limits: dict[str, Any] = {"token_limit": config.token_limit, "context": context_of(model)}
    loaded = load_examples(config.data, tokenizer, **limits)
    held_out: Loaded[Example] = Loaded([])
    if config.validation:
        held_out = load_examples(config.validation, tokenizer, rows_limit=config.validation_rows, **limits)
    training = SFTTraining(config, model, tokenizer, loaded.items)
    generates(model, (example.response[-1] for example in loaded.items))
    check_savable(model, tokenizer)

    def look() -> dict[str, float | None]:
        if held_out.items:
            training.seen["validation_loss"] = training.mean_loss(held_out.items)
        return {"validation_loss": training.seen["validation_loss"]} if held_out.items else {}

    def first_look() -> dict[str, float | None]:
        loss = training.mean_loss(held_out.items) if held_out.items else None
        training.seen |= {"validation_loss_before": loss, "validation_loss": loss}
        return {"validation_loss": loss}

    def finish(session: Session) -> dict[str, Any]:
        save_folder(config.output, model, tokenizer)
        return training.seen | training.summary | {"rows": len(loaded.items), "dropped_rows": loaded.dropped}

    return Stage("SFT", COLUMNS, training, (loaded.message, held_out.message), look, finish, first_look)


class SFTTraining(SupervisedTraining):
    """Model and optimiser of one fine-tuning.

    Args:
        config: what to do.
        model: `transformers` causal language model on its device; it is changed.
        tokenizer: to say which texts a failed batch held.
        examples: what to learn.

    Raises:
        UserError: there is no layer left to train, or the model does more to its logits than a linear head.
    """

    def __init__(self, config: SFTConfig, model: Any, tokenizer: Any, examples: Sequence[Example]) -> None:
        self.model, self.tokenizer, self.examples = model, tokenizer, examples
        _freeze(model, config.freeze)
        self.head, self.decoder = linear_head(model), model.get_decoder()
        self.device = self.head.weight.device
        optimizer = Optimizer([(model.parameters(), config.learning_rate)], config)
        super().__init__(config, optimizer, len(examples), shuffled_batches)

    def step(self, progress: float) -> dict[str, float]:
        """One gradient step on the next batch.

        Args:
            progress: in [0, 1], for the step size.

        Raises:
            UserError: the loss is not finite; the batch is kept beside the model.
        """
        started = time.perf_counter()
        batch = [self.examples[i] for i in next(self.batches)]
        with self.interruptible():
            loss = self.backward(batch)
        norm = self.optimizer.clip()
        check_finite(loss, norm, self.config.output, lambda: self._texts(batch), self.steps + 1)
        rate = self.optimizer.step(progress)
        self.steps += 1
        lengths = [_read(e) for e in batch]
        return {
            "loss": loss,
            "learning_rate": rate,
            "grad_norm": norm,
            "padded_share": padded_share(lengths, token_budget_batches(lengths, self.config.token_budget)),
            "tokens_per_second": sum(lengths) / (time.perf_counter() - started),
        }

    def rows_read(self) -> str:
        """See `SupervisedTraining`."""
        return digest_of(part for example in self.examples for part in (example.prompt, example.response))

    def _texts(self, batch: Sequence[Example]) -> list[str]:
        return [self.tokenizer.decode(e.prompt + e.response) for e in batch]

    def backward(self, batch: Sequence[Example]) -> float:
        """Adds the gradient of the batch's mean loss per response token; returns that loss, in nats."""
        # The whole step's token count, so that the cut into micro-batches changes nothing.
        tokens = sum(len(e.response) for e in batch)
        total = 0.0
        for rows in token_budget_batches([_read(e) for e in batch], self.config.token_budget):
            loss = self.loss_sum([batch[i] for i in rows]) / tokens
            loss.backward()
            total += float(loss.detach())
        return total

    def loss_sum(self, batch: Sequence[Example]) -> Tensor:
        """-Σ log p over the response tokens of all rows, a scalar."""
        tokens, _ = right_padded([(e.prompt + e.response)[:-1] for e in batch])
        rows = [row for row, e in enumerate(batch) for _ in e.response]
        columns = [len(e.prompt) - 1 + i for e in batch for i in range(len(e.response))]
        targets = torch.tensor([t for e in batch for t in e.response])
        tokens, targets = on(self.device, (tokens, targets))
        with computing(self.device, self.config.compute), recomputing(self.decoder):
            hidden = self.decoder(input_ids=tokens, use_cache=False).last_hidden_state
            log_prob, _ = token_log_probs(hidden[rows, columns], self.head.weight, targets, bias=self.head.bias)
        return -log_prob.sum()

    @torch.no_grad()
    def mean_loss(self, examples: Sequence[Example]) -> float:
        """Loss per response token, nats."""
        batches = token_budget_batches([_read(e) for e in examples], self.config.token_budget)
        total = sum(float(self.loss_sum([examples[i] for i in rows])) for rows in batches)
        return total / sum(len(e.response) for e in examples)


def _read(example: Example) -> int:
    """Tokens that go through the network: the last one predicts nothing."""
    return len(example.prompt) + len(example.response) - 1


def _freeze(model: Any, layers: int) -> None:
    if layers == 0:
        return
    decoder = model.get_decoder()
    check_freeze(decoder, layers)
    model.get_input_embeddings().requires_grad_(False)
    for layer in decoder.layers[:layers]:
        layer.requires_grad_(False)
