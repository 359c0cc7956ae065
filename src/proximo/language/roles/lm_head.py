"""Log-prob and entropy of tokens straight from hidden states: the head is applied in chunks and never kept.

A language model's logits are its largest tensor (tokens x vocabulary). Here a chunk of them lives at a time: what
leaves is one log-prob and one entropy per token, in float32. Where a head is trained and all probabilities are small
enough, they wait for the backward pass instead of being computed once more.
"""

from typing import Any

import torch
from torch import Tensor

from proximo.language.compute.matmul import product

CHUNK_BYTES = 32 * 2**20  # of float32 logits that live at a time; glibc keeps no larger block for the next chunk
KEPT_BYTES = 256 * 2**20  # of probabilities that wait for the backward pass; more are computed once more there


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    need_entropy: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log softmax((hidden @ weight^T + bias) / temperature) at the targets, and the softmax's entropy.

    Args:
        hidden: `[n, d]`, last hidden states of the positions that predict the targets.
        weight: `[V, d]`, of the language-model head.
        targets: `[n]`, token ids; n may be 0.
        temperature: > 0; the same here as in the sampler, or the ratio is not 1.
        bias: `[V]` or None.
        need_entropy: whether the entropy has a gradient (it costs a product); its value is always given.

    Returns:
        `(log_prob, entropy)`, each `[n]`, float32, nats; the log-prob with gradient.

    Raises:
        ValueError: the temperature is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature} must be positive")
    # Whatever the trunk computed in: a log-prob from bfloat16 logits is off by tenths of a nat.
    with torch.autocast(hidden.device.type, enabled=False):
        return _FusedHead.apply(
            hidden.float(), weight, bias, targets, float(temperature), need_entropy, torch.is_grad_enabled()
        )


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = product(hidden, weight, bias)
    return logits if temperature == 1.0 else logits.div_(temperature)


class _FusedHead(torch.autograd.Function):
    """With p the softmax: d log p_y / d logits = onehot_y - p;  dH / d logits = -p (log p + H)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        temperature: float,
        need_entropy: bool,
        backward: bool,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        weight, bias = weight.float(), None if bias is None else bias.float()
        trained = needs_weight or needs_bias
        frozen = needs_hidden and not trained
        keep = trained and backward and not need_entropy and 4 * len(hidden) * len(weight) <= KEPT_BYTES
        chunks, kept = _chunks(len(hidden), len(weight)), []
        log_probs, entropies, slopes, curves = [], [], [], []
        for rows in chunks:
            logits = _logits(hidden[rows], weight, bias, temperature)
            p = logits.softmax(-1)
            # log Z = max logit - log max p: one fused pass makes p, where logsumexp takes four and p another.
            normalizer = logits.amax(-1) - p.amax(-1).log()
            log_probs.append(logits.gather(1, targets[rows].unsqueeze(1)).squeeze(1) - normalizer)
            entropy = normalizer - _row_dot(p, logits)  # -sum p log p, log p = logit - log Z
            entropies.append(entropy)
            if keep:
                kept.append(p)
            if frozen:  # the gradient to the hidden state is known up to a factor per token: no second pass
                slopes.append((weight[targets[rows]] - product(p, weight.t())) / temperature)
                if need_entropy:
                    curve = p.mul_(logits.add_((entropy - normalizer).unsqueeze(1)))  # p (log p + H)
                    curves.append(product(curve, weight.t()) / -temperature)
        log_prob, entropy = torch.cat(log_probs), torch.cat(entropies)
        ctx.temperature, ctx.need_entropy, ctx.frozen = temperature, need_entropy, frozen
        if frozen:
            ctx.save_for_backward(torch.cat(slopes), torch.cat(curves) if need_entropy else None)
        elif trained:
            ctx.save_for_backward(hidden, weight, bias, targets, *kept)
        if not need_entropy:
            ctx.mark_non_differentiable(entropy)
        return log_prob, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        for_log_prob, for_entropy = gradients
        if ctx.frozen:
            slope, curve = ctx.saved_tensors
            result = for_log_prob.unsqueeze(1) * slope
            if ctx.need_entropy:
                result += for_entropy.unsqueeze(1) * curve
            return result, *[None] * 6
        hidden, weight, bias, targets, *kept = ctx.saved_tensors
        to_hidden, to_weight, to_bias = torch.empty_like(hidden), None, None
        for index, rows in enumerate(_chunks(len(hidden), len(weight))):
            up = for_log_prob[rows].unsqueeze(1)
            if kept:
                slope = kept[index] * -up
            else:
                log_p = _logits(hidden[rows], weight, bias, ctx.temperature).log_softmax(-1)
                slope = log_p.exp()
                if ctx.need_entropy:
                    entropy = -_row_dot(slope, log_p)
                    bend = log_p.add_(entropy.unsqueeze(1)).mul_(for_entropy[rows].unsqueeze(1))
                    slope.mul_(bend.add_(up)).neg_()
                else:
                    slope.mul_(-up)
            slope.scatter_add_(1, targets[rows].unsqueeze(1), up)
            slope.div_(ctx.temperature)
            to_hidden[rows] = product(slope, weight.t())
            # The first chunk's product is the sum so far: a tensor of zeros as large as the head is not needed.
            share = product(slope.t(), hidden[rows].t())
            to_weight = share if to_weight is None else to_weight.add_(share)
            if bias is not None:
                to_bias = slope.sum(0) if to_bias is None else to_bias.add_(slope.sum(0))
        return to_hidden, to_weight, to_bias, *[None] * 4


def _row_dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products of the rows, `[n]`, without a tensor of their products; `bmm` takes ten times as long on a CPU."""
    return torch.linalg.vecdot(a, b)


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [slice(start, min(start + size, rows)) for start in range(0, max(rows, 1), size)]  # one of no rows at least
