"""What a model's folder may hold: code that nobody asked for, adapters of other models, dropout that stays its own."""

import json
import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import llama, tokenizer
from transformers import AutoConfig

from proximo.errors import UserError
from proximo.language.given.files import _save_whole
from proximo.language.models.folders import save_folder
from proximo.language.models.loading import load_causal_model, load_tokenizer
from proximo.language.ppo_config import SharingSettings
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.roles.critic import save_critic
from proximo.language.roles.sharing import make_roles

AUTO_MAP = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}


def change(file, **settings):
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


@pytest.mark.parametrize("refused", [{"num_return_sequences": 3}, {"max_new_tokens": -1}])
def test_generation_settings_that_are_refused_are_named_with_their_file(tiny_folder, refused):
    (tiny_folder / "generation_config.json").write_text(json.dumps(refused))
    with pytest.raises(
        UserError, match=f"generation_config.json is refused .*{next(iter(refused))}.*: change that file"
    ):
        load_causal_model(str(tiny_folder))


@pytest.fixture
def with_code(tiny_folder, tmp_path):
    """A folder whose code would leave a mark, wherever `transformers` looks for some; and the mark."""
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\nclass Tokenizer: pass\n"
    (tiny_folder / "own.py").write_text(code)
    (tiny_folder / "custom_generate").mkdir()
    (tiny_folder / "custom_generate" / "generate.py").write_text(code + "def generate(*_, **__): pass\n")
    change(tiny_folder / "config.json", auto_map=AUTO_MAP)
    change(tiny_folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["own.Tokenizer", None]})
    return tiny_folder, mark


def test_the_code_of_a_folder_that_is_not_needed_is_not_run(with_code, tiny_model):
    folder, mark = with_code
    model = load_causal_model(str(folder))
    tokens = torch.arange(5).unsqueeze(0)
    torch.testing.assert_close(model(tokens).logits, tiny_model(tokens).logits)
    assert load_tokenizer(str(folder)).eos_token == "</s>"
    RewardModel.from_language_model(str(folder))
    assert not mark.exists()


def test_the_code_of_a_folder_that_is_needed_is_refused(with_code):
    folder, mark = with_code
    change(folder / "config.json", model_type="own")
    with pytest.raises(UserError, match=r"needs Python code of its own .* refused unless asked for"):
        load_causal_model(str(folder))
    change(folder / "tokenizer_config.json", tokenizer_class="OwnTokenizer")
    with pytest.raises(UserError, match=r"needs Python code of its own, which is refused unless asked for"):
        load_tokenizer(str(folder))
    # A configuration that transformers knows, of what it has no causal language model for.
    change(folder / "config.json", model_type="vit")
    with pytest.raises(UserError, match=r"needs Python code of its own, which is refused unless asked for"):
        load_causal_model(str(folder))
    assert not mark.exists()


@pytest.fixture
def adapter(tiny_folder, tmp_path):
    """An adapter that changes something, on the model in `tiny_folder`."""
    model = get_peft_model(load_causal_model(str(tiny_folder)), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, p in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(p)
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def test_an_adapter_of_another_model_is_refused(adapter, tmp_path):
    tokens = torch.arange(5).unsqueeze(0)
    whole = load_causal_model(str(adapter))
    assert not torch.allclose(whole(tokens).logits, llama(64, layers=2)(tokens).logits)
    for layers, fault in ((1, "holds .*layers.1.* in vain"), (3, "lacks .*layers.2.* and 1 more;")):
        save_folder(tmp_path / "other", llama(64, layers=layers), tokenizer())
        change(adapter / "adapter_config.json", base_model_name_or_path=str(tmp_path / "other"))
        with pytest.raises(UserError, match=f"the adapter {adapter} does not fit its base: it {fault}"):
            load_causal_model(str(adapter))


def test_an_adapter_whose_weights_have_other_names_is_refused(adapter):
    file = adapter / "adapter_model.safetensors"
    save_file({name.replace(".model.layers.", ".decoder.layers."): x for name, x in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"lacks .*model\.layers\.0.* and holds .*decoder\.layers\.0.* in vain"):
        load_causal_model(str(adapter))


@pytest.mark.parametrize("mode", ["full", "lora", "top_layers"])
def test_what_is_exported_has_the_dropout_that_it_came_with(mode, tiny_model, tmp_path):
    tiny_model.config.attention_dropout = 0.25
    save_folder(tmp_path / "start", tiny_model, tokenizer())
    model = load_causal_model(str(tmp_path / "start"))
    assert all(layer.self_attn.attention_dropout == 0.0 for layer in model.model.layers)
    model.name_or_path = ""  # so that adapters are exported in a whole model
    roles = make_roles(model, SharingSettings(mode=mode, top_layers=1, lora_rank=2))
    save_folder(tmp_path / "policy", roles, tokenizer())
    assert save_critic(tmp_path / "critic", roles, tokenizer())
    RewardModel.from_language_model(str(tmp_path / "start")).save(tmp_path / "reward")
    for name in ("policy", "critic", "reward"):
        assert AutoConfig.from_pretrained(tmp_path / name).attention_dropout == 0.25, name


@pytest.mark.skipif(os.name != "posix", reason="there is no umask")
@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_whoever_may_read_other_new_files_may_read_a_model(mask, tmp_path, tiny_model):
    before = os.umask(mask)
    try:
        save_folder(tmp_path / "model", tiny_model, tokenizer())
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o666 & ~mask}, modes


def test_of_two_that_save_the_same_model_the_first_stays_and_may_be_read(tmp_path, tiny_model):
    _save_whole(tmp_path / "model", tiny_model, tokenizer())
    file = tmp_path / "model" / "model.safetensors"
    before = file.stat().st_ino
    _save_whole(tmp_path / "model", tiny_model, tokenizer())
    assert file.stat().st_ino == before
    assert [x.name for x in tmp_path.iterdir()] == ["model"]


def test_half_a_folder_that_something_left_is_replaced(tmp_path, tiny_model):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"half")
    _save_whole(tmp_path / "model", tiny_model, tokenizer())
    assert load_causal_model(str(tmp_path / "model")).config.vocab_size == tiny_model.config.vocab_size
    assert [x.name for x in tmp_path.iterdir()] == ["model"]
