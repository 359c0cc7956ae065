"""Sampled responses as text, as a batch, and in numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from proximo.core.batch import Batch
from proximo.language.data.continuation import Continuation
from proximo.language.data.prompts import Prompt
from proximo.language.sampling.sampler import Samples


@dataclass(frozen=True)
class Sampled:
    """The tokens behind some texts, for reward models that read as the policy does."""

    tokenizer: Any
    """The policy's."""
    prompts: list[list[int]]
    responses: list[list[int]]
    """Without the token that ended them."""


@dataclass(frozen=True)
class Texts:
    """Prompts and responses as text, with what the prompts' rows hold beside the prompt: what a reward term reads."""

    prompts: list[str]
    responses: list[str]
    columns: Mapping[str, list[Any]]
    finished: list[bool]
    sources: list[Any] = field(default_factory=list)
    """The prompts as their rows have them: text or chat messages."""
    sampled: Sampled | None = None
    """The tokens as they were sampled, where they were."""


def to_texts(prompts: Sequence[Prompt], samples: Samples, tokenizer: Any) -> Texts:
    """Prompts and responses as text, without the token that ends a response."""
    lengths = (samples.lengths - samples.finished.long()).tolist()
    tokens = samples.tokens.tolist()
    responses = [row[:n] for row, n in zip(tokens, lengths, strict=True)]
    continuation = Continuation(tokenizer)
    names = sorted({name for p in prompts for name in p.columns})
    return Texts(
        prompts=[p.text for p in prompts],
        responses=[continuation.decode(row) for row in responses],
        columns={name: [p.columns.get(name) for p in prompts] for name in names},
        finished=samples.finished.tolist(),
        sources=[p.given for p in prompts],
        sampled=Sampled(tokenizer, [p.tokens for p in prompts], responses),
    )


def to_batch(prompts: Sequence[Prompt], samples: Samples) -> Batch:
    """Prompts and responses, right-padded; values, advantages and returns are still 0."""
    device = samples.tokens.device
    lengths = samples.lengths
    steps = samples.tokens.shape[1]
    weight = (torch.arange(steps, device=device) < lengths.unsqueeze(1)).float()
    prompt_lengths = torch.tensor([len(p.tokens) for p in prompts], device=device)
    width = int((prompt_lengths + lengths).max())
    tokens = torch.zeros(len(prompts), width, dtype=torch.long, device=device)
    responses = samples.tokens.tolist()
    for row, (prompt, n) in enumerate(zip(prompts, lengths.tolist(), strict=True)):
        whole = prompt.tokens + responses[row][:n]
        tokens[row, : len(whole)] = torch.tensor(whole, device=device)
    inputs = {"tokens": tokens, "prompt_lengths": prompt_lengths}
    if samples.states:
        inputs["states"] = torch.zeros(len(prompts), width, samples.states[0].shape[-1], device=device)
        for row, state in enumerate(samples.states):
            inputs["states"][row, : len(state)] = state
    zeros = torch.zeros_like(weight)
    return Batch(inputs, samples.tokens, samples.log_probs, zeros, zeros, zeros, weight)


def text_statistics(samples: Samples) -> dict[str, float]:
    """How varied the responses are: share of duplicates, distinct-1 and distinct-2 (Li et al. 2016), over tokens."""
    rows = [tuple(t[:n]) for t, n in zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
    values = {"duplicates": 1.0 - len(set(rows)) / len(rows)}
    for n in (1, 2):
        grams = Counter(row[i : i + n] for row in rows for i in range(len(row) - n + 1))
        values[f"distinct_{n}"] = len(grams) / max(1, sum(grams.values()))
    return values
