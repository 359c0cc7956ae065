"""Responses of a language model as rows: the kind of text that a reward model will be asked about."""

import json
from itertools import cycle, islice
from typing import Any

from proximo.errors import UserError
from proximo.language.data.dataset import Loaded, load_prompts
from proximo.language.data.rows import Rows, read_fields
from proximo.language.models.context import context_of
from proximo.language.models.loading import choose_device, load_causal_model, load_tokenizer
from proximo.language.sampling.answers import answer
from proximo.language.sampling.sampler import SamplingParameters, stop_tokens


def sample_rows(
    policy: str,
    prompts: Any,
    count: int,
    *,
    prompt_limit: int = 512,
    response_limit: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    device: str = "auto",
    trust_remote_code: bool = False,
    day: str = "",
) -> Loaded[dict[str, Any]]:
    """Responses of a model to some prompts, as PPO would draw them.

    Args:
        policy: folder or hub name of a causal language model.
        prompts: rows with a `prompt`, see `read_rows`; each counts once.
        count: responses. Where there are fewer prompts, the first ones are answered again.
        prompt_limit: longest prompt in tokens; a longer one is not asked.
        response_limit: cap in tokens; half of the model's context if that is less.
        temperature: of the sampling.
        seed: of the sampling.
        device: where it runs, see `choose_device`.
        trust_remote_code: whether the model may bring Python code of its own.
        day: see `load_tokenizer`.

    Returns:
        Rows with prompt (as given: text or chat messages), response, finished and tokens (of both, as sampled); and
        what prompts were left out.

    Raises:
        UserError: model or prompts can not be used.
    """
    tokenizer = load_tokenizer(policy, trust_remote_code=trust_remote_code, day=day)
    model = load_causal_model(policy, device=choose_device(device), trust_remote_code=trust_remote_code)
    context = context_of(model) or 1 << 30
    response_limit = min(response_limit, context // 2)
    asked = load_prompts(different_prompts(prompts, count), tokenizer, prompt_limit)
    room = context - response_limit
    fitting = [prompt for prompt in asked.items if len(prompt.tokens) <= room]
    if not fitting:
        raise UserError(
            f"the context of {policy} has {context} tokens: beside samples of {response_limit} tokens (response_limit) "
            f"it has room for prompts of {room}, and all {len(asked.items)} are longer: lower response_limit, name "
            "shorter prompts as standardise_on, or take a model with a longer context"
        )
    parameters = SamplingParameters(response_limit, stop_tokens(model, tokenizer, fitting), temperature)
    texts = answer(model, tokenizer, list(islice(cycle(fitting), count)), parameters, seed=seed).texts
    assert texts.sampled is not None, "an answer is sampled"
    tokens = zip(texts.sampled.prompts, texts.sampled.responses, strict=True)
    rows = [
        {"prompt": prompt, "response": response, "finished": ended, "tokens": both}
        for prompt, response, ended, both in zip(texts.sources, texts.responses, texts.finished, tokens, strict=True)
    ]
    return Loaded(rows, asked.dropped + len(asked.items) - len(fitting), asked.message)


def different_prompts(source: Any, count: int) -> Rows:
    """The first `count` rows whose prompts differ from those of the rows before: pairs may share one prompt.

    Raises:
        UserError: rows without a prompt.
    """
    rows = read_fields(source, ("prompt",))
    first: dict[str, int] = {}
    for i, row in enumerate(rows.values):
        first.setdefault(json.dumps(row["prompt"], sort_keys=True), i)
    places = list(first.values())[:count]
    return Rows([rows.values[i] for i in places], [rows.numbers[i] for i in places], rows.name, rows.unit)
