"""Caches hold keys and values in the type that is computed in; what a model can not be sampled with is not used."""

import pytest
import torch
from architectures import FAMILIES, random_model
from tiny import llama, prompts, tokenizer

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.models.caches import make_cache, usable_cache
from proximo.language.models.decoder import Stack
from proximo.language.sampling.sampler import SamplingParameters, generate, stop_tokens

CPU = torch.device("cpu")
PROMPTS = [[1, 2, 3], [4, 5, 6, 7, 8, 9, 10, 11, 12], [6], [7, 8, 9, 10, 11, 12, 13]]
NO_STATIC = {"Bloom"}  # its positions are in the mask, which has another width there


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_with_a_cache_of_either_kind_tokens_have_the_log_probs_of_a_forward_pass(family, compute):
    """In both types; bfloat16 has three digits, and weights here are far from small."""
    model = random_model(family, FAMILIES[family])
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    for kind in ("dynamic", "static"):
        used = usable_cache(model, kind, compute)
        assert used == ("dynamic" if family in NO_STATIC else kind)
        noise = torch.Generator().manual_seed(1)
        with computing(CPU, compute):
            seen = generate(Stack([decoder]), head, PROMPTS, SamplingParameters(12, (0,)), generator=noise, cache=used)
        for i, prompt in enumerate(PROMPTS):
            n = int(seen.lengths[i])
            row = torch.tensor([prompt + seen.tokens[i, :n].tolist()])
            with torch.no_grad(), computing(CPU, compute):
                hidden = decoder(input_ids=row, use_cache=False).last_hidden_state
            with torch.no_grad():
                log_p = head(hidden.float())[0].log_softmax(-1)
            expected = log_p[len(prompt) - 1 : len(prompt) - 1 + n].gather(1, seen.tokens[i, :n, None])[:, 0]
            bound = 1e-4 if compute == "float32" else 0.1
            torch.testing.assert_close(seen.log_probs[i, :n], expected, rtol=0, atol=bound)


@pytest.mark.parametrize("kind", ["dynamic", "static"])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_keys_and_values_are_kept_in_the_type_of_the_products(kind, weights):
    """Rotary embeddings promote the keys to float32: twice the bytes, and a static cache would refuse the values."""
    model = llama().to(weights)
    cache = make_cache(model.get_decoder(), kind, 12)
    tokens = torch.arange(1, 7).repeat(2, 1)
    with torch.no_grad(), computing(CPU, "bfloat16" if weights == torch.float32 else "float32"):
        model.get_decoder()(input_ids=tokens, past_key_values=cache, use_cache=True)
    kept = {x.dtype for layer in cache.layers for x in (layer.keys, layer.values)}
    assert kept == {torch.bfloat16}


def test_ends_that_are_no_tokens_are_refused():
    """On a GPU they would end the process within the first rollout."""
    for stop in ((), (-1,), (0, -1)):
        with pytest.raises(UserError, match=r"must name at least one token, and ids from 0 on"):
            SamplingParameters(4, stop)
    model = llama()
    for wrong in (-1, 16):
        model.generation_config.eos_token_id = [0, wrong]
        with pytest.raises(UserError, match=f"end with token {wrong}, but the model has tokens 0 to 15"):
            stop_tokens(model, tokenizer(), prompts([3]))
