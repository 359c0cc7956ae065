"""Responses from a policy, token by token: a key-value cache, a log-prob per sampled token, no [B, R, V] anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proximo.errors import UserError
from proximo.language.compute.matmul import product
from proximo.language.data.coder import end_of_chat
from proximo.language.data.prompts import Prompt
from proximo.language.models.caches import Kind, make_cache
from proximo.language.models.decoder import Stack
from proximo.language.models.folders import generation_stops

DROP_SHARE = 8  # finished rows leave the batch when they are one in so many of it: a copy of the cache has a price


@dataclass(frozen=True)
class SamplingParameters:
    """How responses are drawn."""

    max_tokens: int
    """Cap on the response."""
    stop: tuple[int, ...]
    """Token ids that end a response; the token itself belongs to it."""
    temperature: float = 1.0
    """Logits are divided by it, here and wherever the tokens are scored; 0 takes the likeliest token."""

    def __post_init__(self) -> None:
        """Refuse stop ids that no token has: on a GPU they would end the process.

        Raises:
            UserError: names one, or there is none.
        """
        if not self.stop or min(self.stop) < 0:
            raise UserError(
                f"stop = {self.stop} must name at least one token, and ids from 0 on: correct eos_token_id in the "
                "model's generation_config.json, or the tokenizer's EOS token"
            )


@dataclass(frozen=True)
class Samples:
    """Responses, right-padded with the first stop id. R is the longest one's length."""

    tokens: Tensor
    """`[B, R]`."""
    log_probs: Tensor
    """`[B, R]`, float32, nats, of each sampled token as it was sampled; 0 on padding."""
    lengths: Tensor
    """`[B]`, the stop token included."""
    finished: Tensor
    """`[B]` bool: ended with a stop token, also where that fell on the cap."""
    hidden: Tensor | None
    """`[B, R, d]`, last hidden states of the positions that predicted the tokens; 0 on padding. None of an engine that
    keeps none: values then take a pass of their own."""
    states: list[Tensor]
    """Per row `[prompt + length - 1, d]`: what the lowest part said of every token that was read; empty unless the
    stack has two parts."""


@torch.no_grad()
def generate(
    stack: Stack,
    head: torch.nn.Linear,
    prompts: Sequence[Sequence[int]],
    parameters: SamplingParameters,
    *,
    generator: torch.Generator | None = None,
    cache: Kind = "dynamic",
) -> Samples:
    """Sample one response to each prompt.

    Row i's t-th token is decided by one uniform number u[i, t] that is drawn beforehand (inverse of the cumulative
    distribution), so a row's response does not depend on which other rows are still being sampled.

    Args:
        stack: the policy's decoder.
        head: its language-model head.
        prompts: token ids, at least one each.
        parameters: cap, stop ids, temperature.
        generator: draws the uniform numbers, on the CPU.
        cache: static has fixed shapes and keeps finished rows (for CUDA); dynamic drops them.

    Raises:
        UserError: an empty prompt.
    """
    if not all(prompts):
        raise UserError(f"prompt {[len(p) for p in prompts].index(0)} is empty: a response needs something to follow")
    device = head.weight.device
    noise = torch.rand(len(prompts), parameters.max_tokens, generator=generator, dtype=torch.float64).to(device)
    session = _Session(stack, prompts, parameters, device, cache)
    for t in range(parameters.max_tokens):
        chosen, log_prob = _draw(head, session.hidden, noise[session.rows, t], parameters.temperature)
        if not session.take(t, chosen, log_prob):
            break
    return session.samples()


def _draw(head: torch.nn.Linear, hidden: Tensor, uniform: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    with torch.autocast(hidden.device.type, enabled=False):  # as in `token_log_probs`
        logits = product(hidden.float(), head.weight.float(), head.bias)
    if temperature == 0:
        log_p = logits.log_softmax(-1)
        chosen = log_p.argmax(-1)
    else:
        log_p = logits.div_(temperature).log_softmax(-1)
        # float64: 49,000 float32 additions would misplace rare tokens
        cumulative = log_p.double().exp_().cumsum(-1)
        threshold = uniform.unsqueeze(1) * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, threshold, right=True).squeeze(1).clamp_max(log_p.shape[-1] - 1)
    return chosen, log_p.gather(1, chosen.unsqueeze(1)).squeeze(1)


class _Session:
    """The rows that are still being sampled, and what has been sampled of all."""

    def __init__(
        self,
        stack: Stack,
        prompts: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        device: torch.device,
        cache: Kind,
    ) -> None:
        self.stack, self.parameters, self.prompts, self.static = stack, parameters, prompts, cache == "static"
        batch, longest = len(prompts), max(map(len, prompts))
        shape = (batch, parameters.max_tokens)
        self.stop = torch.tensor(parameters.stop, device=device)
        self.tokens = torch.full(shape, parameters.stop[0], device=device)
        self.log_probs = torch.zeros(shape, device=device)
        self.lengths = torch.zeros(batch, dtype=torch.long, device=device)
        self.finished = torch.zeros(batch, dtype=torch.bool, device=device)
        self.rows = torch.arange(batch, device=device)
        # Left-padded, so that every row's next token has the same place; the mask and the positions say so.
        padded = [[parameters.stop[0]] * (longest - len(p)) + list(p) for p in prompts]
        self.mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=device)
        positions = (self.mask.cumsum(1) - 1).clamp_min(0)
        self.next_position = positions[:, -1] + 1
        self.caches = [make_cache(part, cache, longest + parameters.max_tokens) for part in stack.parts]
        hidden, states = stack.step(torch.tensor(padded, device=device), self.mask, positions, self.caches)
        self.hidden = hidden[:, -1]
        self.prompt_states = states if len(stack.parts) > 1 else None
        width = self.hidden.shape[-1]
        self.all_hidden = torch.zeros(*shape, width, device=device, dtype=self.hidden.dtype)
        self.all_states = torch.zeros(*shape, width, device=device) if len(stack.parts) > 1 else None

    def take(self, t: int, chosen: Tensor, log_prob: Tensor) -> bool:
        """Write down the t-th tokens and read them; False when nothing is left to sample."""
        rows = self.rows
        live = ~self.finished[rows]
        self._write(t, rows[live], chosen[live], log_prob[live], self.hidden[live])
        self.finished[rows[live]] = torch.isin(chosen[live], self.stop)
        if bool(self.finished.all()) or t + 1 == self.parameters.max_tokens:
            return False
        keep = (~self.finished[rows]).nonzero().squeeze(1)
        if not self.static and (len(rows) - len(keep)) * DROP_SHARE >= len(rows):
            for cache in self.caches:
                cache.batch_select_indices(keep)
            self.rows, self.mask, self.next_position = rows[keep], self.mask[keep], self.next_position[keep]
            chosen = chosen[keep]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        hidden, states = self.stack.step(chosen.unsqueeze(1), self.mask, self.next_position.unsqueeze(1), self.caches)
        self.next_position = self.next_position + 1
        self.hidden = hidden[:, -1]
        if self.all_states is not None:
            self.all_states[self.rows, t] = states[:, -1].to(self.all_states.dtype)
        return True

    def _write(self, t: int, rows: Tensor, chosen: Tensor, log_prob: Tensor, hidden: Tensor) -> None:
        self.tokens[rows, t] = chosen
        self.log_probs[rows, t] = log_prob
        self.all_hidden[rows, t] = hidden
        self.lengths[rows] = t + 1

    def samples(self) -> Samples:
        """Everything, cut to the longest response."""
        longest = int(self.lengths.max())
        states: list[Tensor] = []
        if self.all_states is not None and self.prompt_states is not None:
            for row, prompt in enumerate(self.prompts):
                read = int(self.lengths[row]) - 1  # the last token of a response is never read
                states.append(torch.cat([self.prompt_states[row, -len(prompt) :], self.all_states[row, :read]]))
        cut = [x[:, :longest] for x in (self.tokens, self.log_probs, self.all_hidden)]
        return Samples(cut[0], cut[1], self.lengths, self.finished, cut[2], states)


def stop_tokens(model: Any, tokenizer: Any, prompts: Sequence[Prompt]) -> tuple[int, ...]:
    """What ends a response: what fine-tuning teaches to end with, EOS, and what the model's generation settings name.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer, with an EOS token.
        prompts: what is responded to; chat messages may have an end of their own, see `Coder.end`.

    Raises:
        UserError: one of them is no token of the model's.
    """
    chat = next((p.source for p in prompts if isinstance(p.source, list)), None)
    taught = [] if chat is None else [end_of_chat(tokenizer, chat)]
    stop = tuple(dict.fromkeys([*taught, tokenizer.eos_token_id, *generation_stops(model)]))  # each once
    size = model.get_input_embeddings().num_embeddings
    if outside := [token for token in stop if not 0 <= token < size]:
        raise UserError(
            f"a response should end with token {outside[0]}, but the model has tokens 0 to {size - 1}: correct "
            "eos_token_id in its generation_config.json and config.json, or take the tokenizer that belongs to it"
        )
    return stop
