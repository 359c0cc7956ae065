"""A language run's export is one whole model with the run's own numbers beside it."""

from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import proximo
from proximo.cli import main as cli
from proximo.errors import UserError
from proximo.language.ppo_config import PPOConfig
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.views.export import language as written


def test_adapters_are_merged_into_a_folder_that_transformers_alone_loads(talk, tmp_path):
    made = proximo.export(talk, "transformers", tmp_path / "out", observations=64)
    names = {file.name for file in made.path.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md", "contract.json"} <= names
    assert not [name for name in names if "adapter" in name]
    model = AutoModelForCausalLM.from_pretrained(made.path)
    base = AutoModelForCausalLM.from_pretrained(talk.path.parent / "model")
    tokens = torch.tensor([[1, 5, 9, 3]])
    with torch.no_grad():
        before = base(tokens).logits
        trained = PeftModel.from_pretrained(base, talk.policy)(tokens).logits
        torch.testing.assert_close(model(tokens).logits, trained, rtol=0, atol=1e-5)
    assert (before - trained).abs().max() > 1e-4, "the run has taught it something"
    assert len(AutoTokenizer.from_pretrained(made.path)) == len(AutoTokenizer.from_pretrained(talk.policy))


def test_the_card_has_the_numbers_of_the_run(talk, tmp_path):
    card = (proximo.export(talk, "transformers", tmp_path / "out", observations=64).path / "README.md").read_text()
    first, *_, last = proximo.metrics(talk.path)
    assert f"| {first['score']:.4g} | {last['score']:.4g} |" in card
    assert "32 responses in 2 iterations" in card
    assert f"# {talk.path.parent.name}/model, trained with PPO by Proximo" in card
    assert str(talk.path.parent.parent) not in card, "no path of this machine"
    assert "judge" not in card


def test_what_a_judge_said_is_not_called_the_trainings_own(talk, tmp_path, capsys):
    results = {"responses": 32, "iterations": 2, "ended": "", "judge_first": 0.05, "judge_last": 0.17}
    config = from_mapping(PPOConfig, read_toml(talk.path / "config.toml"), where="")
    for held_out, said in (("rows.jsonl", "on held-out prompts:"), ("", "on prompts that the run was trained on:")):
        card = written.model_card(replace(config, held_out=held_out), results, [], written.USE["gguf"])
        assert f"by a judge that was not optimised, {said}\n\n* before the first iteration: 0.05\n* after" in card
    assert (
        cli.main(
            ["export", str(talk.path), "--to", "transformers", "--observations", "64", "--out", str(tmp_path / "out")]
        )
        == 0
    )
    assert "(the final policy)" in capsys.readouterr().out


def test_a_model_that_is_written_wrong_is_refused_and_nothing_is_left(talk, tmp_path, monkeypatch):
    save = written.save_folder

    def wrong(folder, model, *rest):
        with torch.no_grad():
            model.lm_head.weight[0] *= 1.001
        save(folder, model, *rest)

    monkeypatch.setattr(written, "save_folder", wrong)
    with pytest.raises(UserError, match="not the same policy: its logits"):
        proximo.export(talk, "transformers", tmp_path / "new" / "out", observations=64)
    assert not list(tmp_path.iterdir())


def test_a_language_run_is_no_robot_and_a_robot_no_language_run(talk, tmp_path):
    with pytest.raises(UserError, match="is of a language model, which numpy is not for: choose transformers"):
        proximo.export(talk, "numpy", tmp_path / "out")
    with pytest.raises(UserError, match="keeps a final and a best policy"):
        proximo.export(talk, "transformers", tmp_path / "out", checkpoint="step-1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text('kind = "control"\n')
    with pytest.raises(UserError, match="is of an environment, which transformers is not for"):
        proximo.export(tmp_path / "run", "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()
