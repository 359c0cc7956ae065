"""Tiny random models of many architectures."""

import torch
import transformers
from transformers import AutoModelForCausalLM

LAYERS = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LIKE_LLAMA = LAYERS | {"intermediate_size": 64, "max_position_embeddings": 64, "num_key_value_heads": 2}
LIKE_GPT2 = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}

FAMILIES = {
    "Qwen2": LIKE_LLAMA,
    "Qwen3": LIKE_LLAMA | {"head_dim": 8},
    "Mistral": LIKE_LLAMA | {"sliding_window": 5},
    "Gemma": LIKE_LLAMA | {"head_dim": 8},
    "Gemma3Text": LIKE_LLAMA | {"head_dim": 8, "sliding_window": 5},
    "Phi3": LIKE_LLAMA,
    "Phi": LIKE_LLAMA | {"num_key_value_heads": 4},
    "Olmo2": LIKE_LLAMA,
    "SmolLM3": LIKE_LLAMA,
    "StableLm": LIKE_LLAMA,
    "Starcoder2": LIKE_LLAMA,
    "Mixtral": LIKE_LLAMA | {"num_local_experts": 2},
    "GPTNeoX": LAYERS | {"intermediate_size": 64, "max_position_embeddings": 64},
    "GPT2": LIKE_GPT2,
    "GPTJ": LIKE_GPT2 | {"rotary_dim": 4},
    "OPT": LAYERS | {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "Bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "Falcon": LAYERS,
}


def random_model(family, settings):
    """Far from uniform, so that a wrong position or mask would show."""
    torch.manual_seed(0)
    ends = {"vocab_size": 16, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 0}
    model = AutoModelForCausalLM.from_config(getattr(transformers, f"{family}Config")(**settings, **ends)).eval()
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return model
