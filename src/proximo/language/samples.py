"""Responses of a fine-tuned model as rows: the kind of text that a reward model will be asked about."""

from typing import Any

import torch

from proximo.language.data import load_prompts
from proximo.language.models import choose_device, load_causal_model, load_tokenizer
from proximo.language.sampler import SamplingParameters, generate
from proximo.language.stack import Stack

_BATCH = 64


def sample_rows(
    policy: str, prompts: Any, count: int, *, response_limit: int = 64, seed: int = 0, trust_remote_code: bool = False
) -> list[dict[str, Any]]:
    """One response of a model to each of some prompts.

    Args:
        policy: folder or hub name of a causal language model.
        prompts: rows with a `prompt`.
        count: prompts to take at most, the first ones.
        response_limit: cap in tokens.
        seed: of the sampling, at temperature 1.
        trust_remote_code: whether the model may bring Python code of its own.

    Returns:
        Rows with prompt, response and finished.

    Raises:
        UserError: model or prompts can not be used.
    """
    tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code)
    model = load_causal_model(policy, device=choose_device("auto"), trust_remote_code=trust_remote_code)
    context = getattr(model.config, "max_position_embeddings", 1 << 30)
    response_limit = min(response_limit, context // 2)
    asked = load_prompts(prompts, tokenizer, context - response_limit, rows_limit=count).items
    stack, head = Stack([model.get_decoder()]), model.get_output_embeddings()
    parameters = SamplingParameters(response_limit, (tokenizer.eos_token_id,))
    generator = torch.Generator().manual_seed(seed)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(asked), _BATCH):
        part = asked[start : start + _BATCH]
        samples = generate(stack, head, [p.tokens for p in part], parameters, generator=generator)
        lengths = (samples.lengths - samples.finished.long()).tolist()
        for prompt, tokens, n, ended in zip(part, samples.tokens.tolist(), lengths, samples.finished, strict=True):
            response = tokenizer.decode(tokens[:n], skip_special_tokens=True)
            rows.append({"prompt": prompt.text, "response": response, "finished": bool(ended)})
    return rows
