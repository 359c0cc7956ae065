"""A model whose weights are read later is the model that is loaded at once."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import llama, tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

from proximo.language.models.loading import load_causal_model
from proximo.language.models.unloaded import unloaded_causal_model
from proximo.scale.mesh import ALONE
from proximo.scale.parts import fill_parts


def tied():
    model = llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_positions=32, n_embd=16, n_layer=2, n_head=2))


@pytest.mark.parametrize("make", [llama, tied, gpt2])
def test_filled_it_is_the_model_that_is_loaded_at_once(make, tmp_path):
    saved = make()
    saved.generation_config.eos_token_id = [0, 3]
    saved.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, folder = unloaded_causal_model(str(tmp_path))
    assert all(p.is_meta for p in model.parameters())
    fill_parts(model, {name: name for name, _ in model.named_parameters()}, folder, ALONE, device=torch.device("cpu"))
    expected = load_causal_model(str(tmp_path))
    tokens = torch.tensor([[3, 5, 2, 9, 1]])
    assert torch.equal(model(tokens).logits, expected(tokens).logits)
    for kind in ("named_parameters", "named_buffers"):
        mine, theirs = (dict(getattr(x, kind)()) for x in (model, expected))
        assert mine.keys() == theirs.keys()
        assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert model.generation_config.to_dict() == expected.generation_config.to_dict()
    assert (model.name_or_path, model.training) == (expected.name_or_path, False)


def test_a_folder_with_other_weights_is_left_to_the_loader_that_says_what_is_wrong(tmp_path):
    llama().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({**weights, "one.more": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert unloaded_causal_model(str(tmp_path)) is not None  # as transformers, which leaves it away
    lost = weights.pop("model.norm.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert unloaded_causal_model(str(tmp_path)) is None
    save_file({**weights, "model.norm.weight": lost[:3]}, tmp_path / "model.safetensors", {"format": "pt"})
    assert unloaded_causal_model(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    assert unloaded_causal_model(str(tmp_path)) is None
