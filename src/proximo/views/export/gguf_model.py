"""A Llama as one GGUF file, for llama.cpp and the programs made of it."""

from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proximo.errors import UserError
from proximo.language.models.transformers_calls import no_bars, quiet
from proximo.views.export.gguf_tokens import add_tokens

FILE = "model.gguf"


def save(folder: Path, model: Any, tokenizer: Any, title: str) -> None:
    """Write `model.gguf`: weights in float32, settings, vocabulary, chat template and how training sampled.

    Args:
        folder: that exists.
        model: `LlamaForCausalLM` in float32.
        tokenizer: its tokenizer.
        title: that programs show.

    Raises:
        UserError: the package gguf is missing, or llama.cpp would compute something else.
    """
    try:
        import gguf
    except ImportError:
        raise UserError("a GGUF export needs the package gguf: pip install 'proximo[export]'") from None
    _check(model)
    config, kind = model.config, gguf.MODEL_ARCH.LLAMA
    writer = gguf.GGUFWriter(folder / FILE, gguf.MODEL_ARCH_NAMES[kind])
    writer.add_name(title)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    add_tokens(writer, tokenizer, model)
    _add_sampling(writer, model.generation_config)
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    for key, weight in model.state_dict().items():
        if key == "lm_head.weight" and config.tie_word_embeddings:
            continue
        rows = weight.detach().float()
        if key.endswith(("q_proj.weight", "k_proj.weight")):
            rows = _paired(rows, config.head_dim)
        name = names.get_name(key, try_suffixes=(".weight",))
        assert name, "a plain Llama has no other weights"
        writer.add_tensor(name, rows.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def load(folder: Path) -> Any:
    """The file as `transformers` reads it, in float32."""
    from transformers import AutoModelForCausalLM

    with quiet(), no_bars(), redirect_stderr(StringIO()):  # one more bar, which can not be turned off
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file=FILE, dtype=torch.float32).eval()


def _check(model: Any) -> None:
    """See that it is a plain Llama.

    Raises:
        UserError: it is not.
    """
    config = model.config
    why = ""
    if config.model_type != "llama":
        why = f"is a {type(model).__name__}"
    elif config.attention_bias or config.mlp_bias:
        why = "has biases"
    elif config.hidden_act != "silu":
        why = f"has the activation {config.hidden_act}"
    elif (scaling := config.rope_parameters["rope_type"]) != "default":
        why = f"scales its positions ({scaling})"
    if why:
        raise UserError(f"GGUF is written of plain Llama models, and this one {why}: use --to transformers")


def _paired(rows: Tensor, width: int) -> Tensor:
    """Rows `[heads * width, d]` in llama.cpp's order: it turns neighbours by the same angle, `transformers` halves."""
    return rows.view(-1, 2, width // 2, rows.shape[-1]).transpose(1, 2).reshape(rows.shape)


def _add_sampling(writer: Any, settings: Any) -> None:
    """Have llama.cpp sample as `generate` would: its own defaults cut the distribution."""
    if not getattr(settings, "do_sample", False):
        return
    writer.add_sampling_temp(1.0 if settings.temperature is None else settings.temperature)
    writer.add_sampling_top_k(settings.top_k or 0)
    writer.add_sampling_top_p(1.0 if settings.top_p is None else settings.top_p)
    writer.add_sampling_min_p(settings.min_p or 0.0)
