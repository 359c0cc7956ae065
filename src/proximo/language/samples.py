"""Responses of a fine-tuned model as rows: the kind of text that a reward model will be asked about."""

from typing import Any

from proximo.language.data import load_prompts
from proximo.language.evaluation import answer
from proximo.language.models import choose_device, load_causal_model, load_tokenizer
from proximo.language.sampler import SamplingParameters


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
        Rows with prompt (as given: text or chat messages), prompt_text (as the policy read it), response and finished.

    Raises:
        UserError: model or prompts can not be used.
    """
    tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code)
    model = load_causal_model(policy, device=choose_device("auto"), trust_remote_code=trust_remote_code)
    context = getattr(model.config, "max_position_embeddings", 1 << 30)
    response_limit = min(response_limit, context // 2)
    asked = load_prompts(prompts, tokenizer, context - response_limit, rows_limit=count).items
    parameters = SamplingParameters(response_limit, (tokenizer.eos_token_id,))
    texts = answer(model, tokenizer, asked, parameters, seed=seed).texts
    return [
        {"prompt": source, "prompt_text": prompt, "response": response, "finished": ended}
        for source, prompt, response, ended in zip(
            texts.sources, texts.prompts, texts.responses, texts.finished, strict=True
        )
    ]
