"""Any causal language model of `transformers`: each architecture trains as itself, or is refused in one sentence.

Tiny random models of the families that people train. What is asked of each is what PPO rests on: the sampler, with its
cache and its left padding, says of the tokens what the trainer says without either; the reference is the start.
"""

import pytest
import torch
from architectures import FAMILIES, LIKE_GPT2, LIKE_LLAMA, random_model
from language_runs import PROMPTS, training
from tiny import prompts

from proximo.errors import UserError
from proximo.language.models.loading import load_causal_model
from proximo.language.ppo.policy import response_positions
from proximo.language.ppo_config import SharingSettings
from proximo.language.sampling.texts import to_batch

NOT_CUT = {"Phi", "GPTNeoX", "GPT2", "GPTJ", "OPT", "Bloom", "Falcon"}
NOT_ADAPTED = {"Mixtral"}


@pytest.mark.parametrize("mode", ["full", "lora", "top_layers"])
@pytest.mark.parametrize("family", FAMILIES)
def test_sampler_and_trainer_are_one_model_before_and_after_an_update(family, mode):
    sharing = SharingSettings(mode=mode, top_layers=1, lora_rank=4)
    model = random_model(family, FAMILIES[family])
    if family in (NOT_CUT if mode == "top_layers" else NOT_ADAPTED if mode == "lora" else ()):
        with pytest.raises(UserError, match=r"does not know (the layers|how to adapt).*: set sharing.mode"):
            training(sharing, model)
        return
    run = training(sharing, model)
    for step in range(2):
        samples = run.sample([p.tokens for p in prompts(*PROMPTS)])
        batch = to_batch(prompts(*PROMPTS), samples)
        scored, _ = run.policy.scored(batch)
        torch.testing.assert_close(samples.log_probs, scored, rtol=1e-4, atol=1e-4)
        reference = run.policy.reference_log_probs(batch)
        assert torch.equal(scored, reference) == (step == 0), "the reference is the start, and stays there"
        run.iterate()
    with torch.no_grad():  # a forward pass of transformers' own
        start = random_model(family, FAMILIES[family])
        rows, steps, columns = response_positions(batch)
        tokens = batch.inputs["tokens"]
        log_p = start(input_ids=tokens).logits.log_softmax(-1)
        theirs = log_p[rows, columns].gather(1, samples.tokens[rows, steps].unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(reference[rows, steps], theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("family", "attention"), [("Qwen2", "sdpa"), ("GPTJ", "eager"), ("Bloom", "eager")])
def test_attention_is_sdpa_where_the_architecture_has_it(tmp_path, family, attention):
    random_model(family, FAMILIES[family]).save_pretrained(tmp_path)
    assert load_causal_model(str(tmp_path)).config._attn_implementation == attention


OTHERS = {
    "Mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}, "can not be sampled with left padding and"),
    "Lfm2": (LIKE_LLAMA | {"layer_types": ["conv", "full_attention", "conv"]}, "can not be sampled with left padding"),
    "MiniMax": (LIKE_LLAMA | {"num_local_experts": 2}, "can not be sampled with left padding"),
    "OpenAIGPT": (LIKE_GPT2, "can not be sampled with left padding"),
    "Llama4Text": (LIKE_LLAMA | {"head_dim": 8, "num_local_experts": 2}, "has no decoder apart from its head"),
}


@pytest.mark.parametrize("family", OTHERS)
def test_a_model_that_remembers_in_another_way_is_refused_in_one_sentence(family):
    settings, said = OTHERS[family]
    with pytest.raises(UserError, match=f"^{family.removesuffix('Text')}.* {said}"):
        training(SharingSettings(mode="full"), random_model(family, settings))
