"""Before and after: the same prompts answered by the starting model and by the trained one, scored and judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proximo.core.divergences import kl_k1, kl_k3
from proximo.language.models.caches import usable_cache
from proximo.language.models.decoder import Stack
from proximo.language.models.linear_head import linear_head
from proximo.language.ppo import rollout
from proximo.language.ppo.policy import LanguagePolicy
from proximo.language.ppo.rollout import Prompt
from proximo.language.rewards.terms import Texts
from proximo.language.sampling.sampler import Samples, SamplingParameters, generate


@dataclass(frozen=True)
class Answers:
    """One model's responses to some prompts."""

    texts: Texts
    samples: Samples
    statistics: dict[str, float]
    """duplicates, distinct_1, distinct_2, response_length, finished."""


def answer(
    model: Any, tokenizer: Any, prompts: Sequence[Prompt], parameters: SamplingParameters, *, seed: int, batch: int = 64
) -> Answers:
    """Responses of a model; row i's are drawn with the same random numbers for every model of one seed.

    Raises:
        UserError: the model does more to its logits than a linear head, or can not be sampled with a cache.
    """
    generator = torch.Generator().manual_seed(seed)
    stack, head = Stack([model.get_decoder()]), linear_head(model)
    usable_cache(model)
    parts = []
    for start in range(0, len(prompts), batch):
        rows = [p.tokens for p in prompts[start : start + batch]]
        parts.append(generate(stack, head, rows, parameters, generator=generator))
    samples = _joined(parts, parameters)
    statistics = rollout.text_statistics(samples) | {
        "response_length": float(samples.lengths.float().mean()),
        "finished": float(samples.finished.float().mean()),
    }
    return Answers(rollout.to_texts(prompts, samples, tokenizer), samples, statistics)


def divergence(
    policy: Any, reference: Any, prompts: Sequence[Prompt], answers: Answers, *, temperature: float = 1.0
) -> dict[str, float]:
    """KL(policy, reference) on the policy's own responses: k1 and k3, nats per response, and k1's standard error.

    `temperature` is that of the sampling.
    """
    batch = rollout.to_batch(prompts, answers.samples)
    log_probs = []
    for model in (policy, reference):
        linear_head(model)  # or the log-probs would be those of another model
        roles = _Scoring(model)
        log_probs.append(LanguagePolicy(roles, temperature=temperature).scored(batch)[0])  # type: ignore[arg-type]
    real = batch.weight > 0
    each = torch.where(real, kl_k1(log_probs[0], log_probs[1]), 0.0).sum(1)
    k3 = torch.where(real, kl_k3(log_probs[0], log_probs[1]), 0.0).sum(1)
    return {"kl": float(each.mean()), "kl_k3": float(k3.mean()), "kl_se": float(each.std()) / len(each) ** 0.5}


class _Scoring:
    """What `LanguagePolicy` asks of roles, for one model that is only read."""

    def __init__(self, model: Any) -> None:
        self.policy, self.head = Stack([model.get_decoder()]), model.get_output_embeddings()
        self.value_head = torch.nn.Linear(self.head.weight.shape[1], 1, device=self.head.weight.device)

    def value_states(self, hidden: Tensor, tokens: Tensor, states: Tensor | None) -> Tensor:
        return hidden


def _joined(parts: Sequence[Samples], parameters: SamplingParameters) -> Samples:
    longest = max(p.tokens.shape[1] for p in parts)

    def padded(x: Tensor, fill: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, longest - x.shape[1]), value=fill)

    return Samples(
        torch.cat([padded(p.tokens, parameters.stop[0]) for p in parts]),
        torch.cat([padded(p.log_probs, 0) for p in parts]),
        torch.cat([p.lengths for p in parts]),
        torch.cat([p.finished for p in parts]),
        torch.zeros(0),
        [],
    )
