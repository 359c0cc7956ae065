"""Log-prob and entropy of tokens straight from hidden states: the head is applied in chunks and never kept.

A language model's logits are its largest tensor (tokens x vocabulary). Here a chunk of them lives at a time: what
leaves is one log-prob and one entropy per token, in float32.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK_BYTES = 64 * 2**20  # of float32 logits that live at a time


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
        targets: `[n]`, token ids.
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
        return _FusedHead.apply(hidden.float(), weight, bias, targets, float(temperature), need_entropy)


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, temperature: float) -> Tensor:
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
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
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        weight, bias = weight.float(), None if bias is None else bias.float()
        frozen = needs_hidden and not (needs_weight or needs_bias)
        log_probs, entropies, slopes, curves = [], [], [], []
        for rows in _chunks(len(hidden), len(weight)):
            logits = _logits(hidden[rows], weight, bias, temperature)
            normalizer = logits.logsumexp(-1, keepdim=True)
            picked = logits.gather(1, targets[rows].unsqueeze(1))
            log_p = logits.sub_(normalizer)
            p = log_p.exp()
            entropy = -(p * log_p).sum(-1)
            log_probs.append((picked - normalizer).squeeze(1))
            entropies.append(entropy)
            if frozen:  # the gradient to the hidden state is known up to a factor per token: no second pass
                slopes.append((weight[targets[rows]] - p @ weight) / temperature)
                if need_entropy:
                    curves.append(p.mul_(log_p.add_(entropy.unsqueeze(1))) @ weight / -temperature)
        log_prob, entropy = torch.cat(log_probs), torch.cat(entropies)
        ctx.temperature, ctx.need_entropy, ctx.frozen = temperature, need_entropy, frozen
        if frozen:
            ctx.save_for_backward(torch.cat(slopes), torch.cat(curves) if need_entropy else None)
        elif needs_weight or needs_bias:
            ctx.save_for_backward(hidden, weight, bias, targets)
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
            return result, None, None, None, None, None
        hidden, weight, bias, targets = ctx.saved_tensors
        to_hidden = torch.empty_like(hidden)
        to_weight = torch.zeros_like(weight)
        to_bias = None if bias is None else torch.zeros_like(bias)
        for rows in _chunks(len(hidden), len(weight)):
            log_p = _logits(hidden[rows], weight, bias, ctx.temperature).log_softmax(-1)
            slope = log_p.exp()
            if ctx.need_entropy:
                entropy = -(slope * log_p).sum(-1, keepdim=True)
                bend = slope * (log_p + entropy) * for_entropy[rows].unsqueeze(1)
                slope = slope.mul_(-for_log_prob[rows].unsqueeze(1)).sub_(bend)
            else:
                slope = slope.mul_(-for_log_prob[rows].unsqueeze(1))
            slope.scatter_add_(1, targets[rows].unsqueeze(1), for_log_prob[rows].unsqueeze(1))
            slope.div_(ctx.temperature)
            if to_bias is not None:
                to_bias += slope.sum(0)
            to_hidden[rows] = slope @ weight
            to_weight.addmm_(slope.t(), hidden[rows])
        return to_hidden, to_weight, to_bias, None, None, None


def _chunks(rows: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_BYTES // (4 * vocabulary))
    return [slice(start, start + size) for start in range(0, rows, size)]
