"""Fuzzed data, presets and checkpoints of language runs: a value or one clear sentence."""

import json

import pytest
import torch
from fuzzing import altered, answered, cases, damaged, junk, retyped, values
from hypothesis import given
from hypothesis import strategies as st
from language_runs import MODES, training

from proximo.language.config import RewardConfig, SFTConfig
from proximo.language.data.dataset import load_examples, load_pairs, load_prompts
from proximo.language.ppo_config import PPOConfig
from proximo.language.stages import configure, read_preset
from proximo.runs.config.toml import from_mapping
from proximo.runs.session.session import load_into
from proximo.runs.storage.checkpoint import save_checkpoint, step_name

CHAT = [{"role": "user", "content": "w4 w5"}, {"role": "assistant", "content": "w6"}]
ROWS = [
    {"prompt": "w4 w5", "response": "w6 w7", "chosen": "w8", "rejected": "w9 w10"},
    {"prompt": CHAT, "response": "w6", "chosen": "w7", "rejected": "w8", "label": 0.75, "margin": 1.5},
    {"prompt": "w4", "response": "w5", "chosen": "w5", "rejected": "w6", "source": "us", "difference": 0.5},
]
TEMPLATES = {"plain": None, "chat": "{% for m in messages %}{{ m.role }} {{ m.content }} </s> {% endfor %}"}
TOKENIZERS = {}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


rows = st.one_of(
    damaged(lines(ROWS)),
    st.lists(st.one_of(*map(altered, ROWS)), max_size=3).map(lines),
    st.lists(st.one_of(*map(altered, ROWS)), max_size=3).flatmap(lambda x: damaged(lines(x))),
    st.lists(values, max_size=3).map(lines),
    junk,
)


@given(rows, st.sampled_from(sorted(TEMPLATES)), st.sampled_from([load_prompts, load_examples, load_pairs]))
@cases(1600)
def test_fuzzed_rows_are_refused_or_read(tmp_path_factory, make_tokenizer, content, kind, load):
    if kind not in TOKENIZERS:
        TOKENIZERS[kind] = make_tokenizer(template=TEMPLATES[kind])
    file = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    file.write_bytes(content)
    with answered():
        loaded = load(file, TOKENIZERS[kind], 20)
        assert loaded.items


PRESET = b"""about = "tiny"
source = "us"

[sft]
model = "m"
data = "d.jsonl"
batch = 8
learning_rate = 1e-3

[ppo]
prompts = "p.jsonl"
responses = 24
learning_rate = "1e-5 -> 0"

[ppo.rewards]
"a:b" = 1.0

[ppo.update]
epochs = 1
minibatch_size = 4

[ppo.sharing]
mode = "lora"
"""


@given(st.one_of(damaged(PRESET), retyped(PRESET), junk))
@cases(700)
def test_a_damaged_preset_is_refused_or_read(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(content)
    with answered():
        read_preset(file)
    for stage in ("sft", "reward", "judge", "ppo"):
        with answered():
            configure(stage, str(file), "")


TREES = {
    SFTConfig: {"model": "m", "data": "d", "batch": 8, "minutes": 1.5, "schedule": "cosine"},
    RewardConfig: {"model": "m", "freeze": 1, "layers": 3, "centre": 0.1, "head_learning_rate": 1e-3},
    PPOConfig: {
        "policy": "m",
        "rewards": {"a:b": 1.0},
        "learning_rate": "1e-5 -> 0",
        "kl": {"coefficient": 0.05, "target": 6.0},
        "sharing": {"mode": "lora", "lora_rank": 4},
        "update": {"epochs": 4, "minibatch_size": 32},
    },
}


@given(st.data(), st.sampled_from(sorted(TREES, key=str)))
@cases(500)
def test_settings_of_the_wrong_kind_are_refused_or_read(data, cls):
    table = data.draw(altered(TREES[cls]))
    if isinstance(table, dict):
        with answered():
            from_mapping(cls, table, where="a test")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run = training(MODES[2])
    run.iterate()
    tensors, state = run.state()
    return (
        run,
        {name: x.clone() for name, x in tensors.items()},
        json.loads(json.dumps(state)),
        tmp_path_factory.mktemp("f"),
    )


@given(st.data())
@cases(250)
def test_a_checkpoint_of_other_content_is_refused_or_loaded(saved, data):
    run, tensors, state, folder = saved
    tensors = dict(tensors)
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        del tensors[name]
        if data.draw(st.booleans()):
            shape = data.draw(st.lists(st.integers(0, 3), max_size=3))
            tensors[name] = torch.zeros(
                shape, dtype=data.draw(st.sampled_from([torch.float32, torch.int64, torch.uint8]))
            )
    changed = data.draw(st.one_of(st.just(state), altered(state)))
    changed = changed if isinstance(changed, dict) else {"x": changed}
    with answered():
        load_into(run, save_checkpoint(folder, step_name(1), tensors, changed))
