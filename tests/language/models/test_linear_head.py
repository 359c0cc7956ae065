"""Models that do more to their logits than a linear head are refused wherever decoder and head are asked apart."""

import pytest
import torch
from tiny import llama, prompts, tokenizer
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
    GraniteForCausalLM,
)

from proximo.errors import UserError
from proximo.language.comparison import divergence
from proximo.language.config import SFTConfig
from proximo.language.data.dataset import Example
from proximo.language.models.linear_head import linear_head
from proximo.language.ppo_config import SharingSettings
from proximo.language.roles.sharing import make_roles
from proximo.language.sampling.answers import answer
from proximo.language.sampling.sampler import SamplingParameters
from proximo.language.supervised.sft import SFTTraining

SIZE = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "eos_token_id": 0,
    "bos_token_id": 0,
}


def capped():
    """As Gemma 2 is published: 30 tanh(logits / 30), which the logits of new weights hardly feel."""
    return Gemma2ForCausalLM(Gemma2Config(**SIZE, head_dim=8)).eval()


def scaled():
    return CohereForCausalLM(CohereConfig(**SIZE)).eval()


def divided():
    return GraniteForCausalLM(GraniteConfig(**SIZE, logits_scaling=8.0)).eval()


def sample(model):
    return answer(model, tokenizer(), prompts([3], [5, 2]), SamplingParameters(4, (0,)), seed=1)


USES = {
    "fine-tuning": lambda model: SFTTraining(SFTConfig(), model, tokenizer(), [Example([4], [5, 0])]),
    "sampling": sample,
    "divergence": lambda model: divergence(model, llama(), prompts([3], [5, 2]), sample(llama())),
    "PPO": lambda model: make_roles(model, SharingSettings(mode="full")),
}


@pytest.mark.parametrize("make", [capped, scaled, divided])
@pytest.mark.parametrize("use", USES)
def test_a_model_that_caps_or_scales_its_logits_is_refused(make, use):
    with pytest.raises(UserError, match=r"^(Gemma2|Cohere|Granite)\w* does more to its logits than a linear head"):
        USES[use](make())


def test_a_model_that_does_something_before_its_head_is_refused():
    model = llama()
    model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 0.5,))
    with pytest.raises(UserError, match="does more to its logits"):
        linear_head(model)


@pytest.mark.parametrize(
    "model",
    [
        llama(),
        GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=16, n_layer=1, n_head=2)).eval(),
        GraniteForCausalLM(GraniteConfig(**SIZE, logits_scaling=1.0)).eval(),
        llama().to(torch.bfloat16),
    ],
    ids=["llama", "gpt2", "granite", "bfloat16"],
)
def test_a_linear_head_is_taken_and_the_look_leaves_no_trace(model):
    tokens = torch.tensor([[3, 5, 2]])
    with torch.no_grad():
        before = model(input_ids=tokens).logits
    torch.manual_seed(0)
    state = torch.get_rng_state()
    assert linear_head(model) is model.get_output_embeddings()
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        assert torch.equal(model(input_ids=tokens).logits, before)


def test_a_model_without_a_head_is_refused():
    model = llama()
    model.lm_head = torch.nn.Identity()
    with pytest.raises(UserError, match="LlamaForCausalLM has no linear language-model head: use a causal"):
        linear_head(model)


class Doubling(torch.nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def doubled(model):
    model.lm_head.__class__ = Doubling


HEADS = {
    "a subclass": doubled,
    "a hook": lambda model: model.lm_head.register_forward_hook(lambda m, x, y: 2 * y),
    "a forward of its own": lambda model: setattr(
        model.lm_head, "forward", lambda x: 2 * torch.nn.functional.linear(x, model.lm_head.weight)
    ),
}


@pytest.mark.parametrize("change", HEADS)
@pytest.mark.parametrize("use", USES)
def test_a_head_that_does_more_than_its_weight_says_is_refused(change, use):
    model = llama()
    HEADS[change](model)
    with pytest.raises(UserError, match="the head of LlamaForCausalLM does more than multiply by its weight"):
        USES[use](model)


def test_a_subclass_that_multiplies_by_its_weight_is_taken():
    model = llama()
    model.lm_head.__class__ = type("Own", (torch.nn.Linear,), {})
    assert linear_head(model) is model.lm_head
