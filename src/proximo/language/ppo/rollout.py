"""Prompts -> responses -> rewards, as a batch that `core.updates.update` trains on."""

import math

import torch
from torch import Tensor

from proximo.algorithms.base import Algorithm, Transitions, estimated
from proximo.core.batch import Batch
from proximo.core.divergences import kl_k1, kl_k3
from proximo.core.ranks import ALONE, Ranks


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


def estimate(
    batch: Batch,
    rewards: Tensor,
    algorithm: Algorithm,
    gamma: float,
    lam: float,
    scores: Tensor | None = None,
    limit: int | None = None,
    ranks: Ranks = ALONE,
) -> Batch:
    """Advantages and returns over response tokens; a response ends with its last token, finished or not.

    Args:
        batch: sampled and valued.
        rewards: `[B, R]`, KL price and score.
        algorithm: what estimates.
        gamma: discount per token.
        lam: λ.
        scores: `[B]`, of whole responses.
        limit: tokens that a response may have at most.
        ranks: each has responses of its own.
    """
    steps = torch.arange(rewards.shape[1], device=rewards.device)
    real = (batch.weight > 0).to(batch.weight.dtype)
    ended = steps >= (real.sum(1).long() - 1).unsqueeze(1)  # from the last token on: padding chains nothing
    values = torch.where(batch.weight > 0, batch.value, 0.0)
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], 1)
    transitions = Transitions(rewards.T, values.T, following.T, ended.T, ended.T, gamma, lam, scores, limit, ranks)
    advantages, returns, counted = estimated(algorithm, transitions)
    weight = real if counted is None else real * counted.T
    estimates = {"advantages": advantages.T.contiguous(), "returns": returns.T.contiguous()}
    return batch.replace(**estimates, value=values, weight=weight)


def with_reference(batch: Batch, algorithm: Algorithm, ref_log_prob: Tensor | None, coefficient: float) -> Batch:
    """The batch with what a loss needs that pays for the KL itself: `ref_log_prob` `[B, R]`, and β as `[B]`."""
    if ref_log_prob is None or not algorithm.kl_in_the_loss:
        return batch
    beta = torch.full((len(batch),), coefficient, device=batch.weight.device)
    return batch.replace(inputs={**batch.inputs, "ref_log_prob": ref_log_prob, "kl_coefficient": beta})


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
