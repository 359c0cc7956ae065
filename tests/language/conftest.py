"""A tiny random Llama and its tokenizer as folders that `from_pretrained` loads."""

import json
import os
import random

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import tiny
from transformers import BertConfig, BertModel
from words import TEMPLATE, word_tokenizer, words

from proximo.core.settings import UpdateSettings
from proximo.language.ppo_config import KLSettings, PPOConfig


@pytest.fixture
def tiny_tokenizer():
    return word_tokenizer()


@pytest.fixture
def chat_tokenizer():
    return word_tokenizer(template=TEMPLATE)


@pytest.fixture
def tiny_model():
    return tiny.llama(64, layers=2)


@pytest.fixture
def tiny_folder(tmp_path, tiny_model, tiny_tokenizer):
    folder = tmp_path / "tiny"
    tiny_model.save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def ppo_config(tmp_path, tiny_folder):
    """PPO on five prompts, in iterations of 8 responses."""
    rows = tmp_path / "prompts.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(4, 9)))
    return PPOConfig(
        policy=str(tiny_folder),
        prompts=str(rows),
        batch=8,
        response_limit=4,
        learning_rate=1e-2,
        kl=KLSettings(coefficient=0.1),
        update=UpdateSettings(epochs=2, minibatch_size=4, value_coefficient=0.1, max_grad_norm=1.0),
    )


@pytest.fixture
def make_tokenizer():
    return word_tokenizer


@pytest.fixture
def files(tmp_path):
    stream = random.Random(0)
    rows = {
        "sft": [{"prompt": words(stream, 2), "response": words(stream, 3)} for _ in range(24)],
        "pairs": [{"prompt": "w5", "chosen": words(stream, 3), "rejected": words(stream, 2)} for _ in range(24)],
        "prompts": [{"prompt": words(stream, 2)} for _ in range(12)],
    }
    for name, content in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return tmp_path


@pytest.fixture
def tiny_encoder(tmp_path, tiny_tokenizer):
    folder = tmp_path / "encoder"
    size = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertModel(BertConfig(**size, intermediate_size=16)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def preset(files, tiny_folder, tiny_encoder):
    """A preset of one's own, for all stages."""
    file = files / "own.toml"
    file.write_text(
        f"""
about = "tiny"
[sft]
model = "{tiny_folder}"
data = "{files}/sft.jsonl"
batch = 8
[reward]
model = "{tiny_folder}"
data = "{files}/pairs.jsonl"
batch = 8
[judge]
model = "{tiny_encoder}"
data = "{files}/pairs.jsonl"
standardise_on = "{files}/sft.jsonl"
batch = 8
[ppo]
held_out = "{files}/sft.jsonl"
prompts = "{files}/prompts.jsonl"
responses = 24
batch = 8
response_limit = 4
checkpoint_every = 8
[ppo.update]
epochs = 1
minibatch_size = 4
"""
    )
    return file
