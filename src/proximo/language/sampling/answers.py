"""Before and after: the same prompts answered by the starting model and by the trained one, scored and judged."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proximo.language.data.prompts import Prompt
from proximo.language.models.caches import usable_cache
from proximo.language.models.decoder import Stack
from proximo.language.models.linear_head import linear_head
from proximo.language.sampling.sampler import Samples, SamplingParameters, generate
from proximo.language.sampling.texts import Texts, text_statistics, to_texts


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
    statistics = text_statistics(samples) | {
        "response_length": float(samples.lengths.float().mean()),
        "finished": float(samples.finished.float().mean()),
    }
    return Answers(to_texts(prompts, samples, tokenizer), samples, statistics)


def _joined(parts: Sequence[Samples], parameters: SamplingParameters) -> Samples:
    longest = max(p.tokens.shape[1] for p in parts)

    def padded(x: Tensor, fill: int) -> Tensor:
        return torch.nn.functional.pad(x, (0, longest - x.shape[1]), value=fill)

    return Samples(
        torch.cat([padded(p.tokens, parameters.stop[0]) for p in parts]),
        torch.cat([padded(p.log_probs, 0) for p in parts]),
        torch.cat([p.lengths for p in parts]),
        torch.cat([p.finished for p in parts]),
        None,
        [],
    )
