"""Prompts -> responses -> rewards, as a batch that `core.update` trains on."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proximo.core.advantages import gae
from proximo.core.batch import Batch
from proximo.core.divergences import kl_k1, kl_k3
from proximo.language.data.continuation import Continuation
from proximo.language.rewards.terms import Sampled, Texts
from proximo.language.sampling.sampler import Samples


@dataclass(frozen=True)
class Prompt:
    """One prompt."""

    tokens: list[int]
    text: str
    columns: dict[str, Any]
    """The row's other fields, for reward functions."""
    source: Any = None
    """The prompt as the row has it, chat messages included: a reward model writes them out with its own template."""

    @property
    def given(self) -> Any:
        """What a reward model is to read: the row's own prompt, or the text of a prompt that is of no row."""
        return self.text if self.source is None else self.source


@dataclass
class PromptSource:
    """Prompts in an order that is shuffled anew for each pass; where it stands is part of a checkpoint."""

    prompts: Sequence[Prompt]
    seed: int
    taken: int = 0

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        size, chosen = len(self.prompts), []
        for i in range(self.taken, self.taken + count):
            order = self._order(i // size)
            chosen.append(self.prompts[order[i % size]])
        self.taken += count
        return chosen

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_known", (None, []))[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._known = (epoch, torch.randperm(len(self.prompts), generator=generator).tolist())
        return self._known[1]


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


def token_rewards(
    scores: Tensor, log_prob: Tensor, ref_log_prob: Tensor | None, lengths: Tensor, coefficient: float
) -> Tensor:
    """-β k1 at every token, and the score at the last one (Ziegler et al. 2019, eq. 2).

    Args:
        scores: `[B]`.
        log_prob: `[B, R]`, of the policy that sampled.
        ref_log_prob: `[B, R]`; None where nothing is paid for divergence.
        lengths: `[B]`; the last token of a response is its EOS where it has one.
        coefficient: β.

    Returns:
        `[B, R]`, 0 on padding.
    """
    real = torch.arange(log_prob.shape[1], device=log_prob.device) < lengths.unsqueeze(1)
    rewards = torch.zeros_like(log_prob)
    if ref_log_prob is not None:
        rewards = torch.where(real, -coefficient * kl_k1(log_prob, ref_log_prob), 0.0)
    last = (lengths - 1).unsqueeze(1)
    return rewards.scatter_add(1, last, scores.to(rewards).unsqueeze(1))


def estimate(batch: Batch, rewards: Tensor, gamma: float, lam: float) -> Batch:
    """Advantages and returns over response tokens; a response ends with its last token, finished or not."""
    steps = torch.arange(rewards.shape[1], device=rewards.device)
    ended = steps >= (batch.weight.sum(1).long() - 1).unsqueeze(1)  # from the last token on: padding chains nothing
    values = torch.where(batch.weight > 0, batch.value, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    advantages, returns = gae(rewards.T, values.T, following.T, ended.T, ended.T, gamma=gamma, lam=lam)
    return batch.replace(advantages=advantages.T.contiguous(), returns=returns.T.contiguous(), value=values)


def text_statistics(samples: Samples) -> dict[str, float]:
    """How varied the responses are: share of duplicates, distinct-1 and distinct-2 (Li et al. 2016), over tokens."""
    rows = [tuple(t[:n]) for t, n in zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
    values = {"duplicates": 1.0 - len(set(rows)) / len(rows)}
    for n in (1, 2):
        grams = Counter(row[i : i + n] for row in rows for i in range(len(row) - n + 1))
        values[f"distinct_{n}"] = len(grams) / max(1, sum(grams.values()))
    return values


def kl_statistics(batch: Batch, ref_log_prob: Tensor | None) -> dict[str, float | None]:
    """KL(policy, reference) by k1 and k3, nats per response, and the standard error of k1.

    All are None without a reference, the last one of one response.
    """
    if ref_log_prob is None:
        return {"kl": None, "kl_k3": None, "kl_se": None}
    real = batch.weight > 0
    k1, k3 = (torch.where(real, each(batch.log_prob, ref_log_prob), 0.0).sum(1) for each in (kl_k1, kl_k3))
    error = float(k1.std()) / math.sqrt(len(k1)) if len(k1) > 1 else None
    return {"kl": float(k1.mean()), "kl_k3": float(k3.mean()), "kl_se": error}


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's, 0 where one does not vary."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum()) / scale if scale > 0 else 0.0
