"""What the pages of the language half tell users to write: it is read from the pages, and the code must take it."""

import json

import pytest
from pages import blocks, shown_files
from words import TEMPLATE

from proximo.language.data.dataset import load_examples, load_pairs, load_prompts
from proximo.language.models.loading import load_encoder
from proximo.language.rewards.judge import Judge
from proximo.language.stages import CONFIGS, configure, find_preset
from proximo.language.supervised.judge import judge_pairs


@pytest.fixture
def own_data(tmp_path, monkeypatch):
    """The page's preset, in a folder where it is the current one."""
    monkeypatch.chdir(tmp_path)
    (toml,) = blocks("rlhf.md", "toml")
    (tmp_path / "my.toml").write_text(toml, "utf-8")
    return tmp_path


def test_the_preset_for_own_data_configures_every_stage(own_data):
    assert set(find_preset("my.toml").stages) == set(CONFIGS)
    for stage, kind in CONFIGS.items():
        config = configure(stage, "my.toml", "")
        assert isinstance(config, kind)
        assert config != kind(), "the table says something"
    commands = "\n".join(blocks("rlhf.md"))
    assert "proximo rlhf all --preset my.toml --run " in commands


@pytest.mark.parametrize("kind", [0, 1], ids=["text", "messages"])
def test_the_rows_for_own_data_are_read_by_the_stages_that_name_them(own_data, kind, make_tokenizer, tiny_encoder):
    shown = [files for block in blocks("rlhf.md", "text") if "data/sft.jsonl" in (files := shown_files(block))][kind]
    (own_data / "data").mkdir()
    for name, rows in shown.items():
        (own_data / name).write_text("\n".join(rows), "utf-8")
        prompts = [json.loads(row)["prompt"] for row in rows]
        assert len(rows) == 2
        assert all(isinstance(prompt, (str, list)[kind]) for prompt in prompts)
    tokenizer = make_tokenizer(template=TEMPLATE)
    judge = Judge(load_encoder(str(tiny_encoder)), tokenizer)
    sft, reward, judging, ppo = (configure(stage, "my.toml", "") for stage in ("sft", "reward", "judge", "ppo"))
    read = {name: load_examples(name, tokenizer, sft.token_limit).items for name in (sft.data, sft.validation)}
    for name in (reward.data, reward.validation, ppo.held_out_pairs):
        read[name] = load_pairs(name, tokenizer, reward.token_limit).items
    read |= {name: judge_pairs(name, judge).items for name in (judging.data, judging.validation)}
    read |= {name: load_prompts(name, tokenizer, ppo.prompt_limit).items for name in (ppo.prompts, ppo.held_out)}
    assert set(read) == set(shown), "every file that the preset names is shown, and no other"
    assert all(len(items) == 2 for items in read.values())
