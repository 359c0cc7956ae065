"""Where a finished run is asked: on the device that it was trained on, or on the CPU where there is no such device."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import llama

from proximo.language import comparison
from proximo.language.chat import side_by_side
from proximo.language.comparison import _Scoring, compare
from proximo.language.models.loading import load_encoder, load_tokenizer
from proximo.language.ppo.run import run_ppo
from proximo.language.rewards import loading as reward_loading
from proximo.language.rewards.judge import Judge
from proximo.language.rewards.reward_model import RewardModel


@pytest.fixture
def finished(ppo_config, tiny_folder, tiny_encoder, tmp_path):
    """A finished run with a reward model, and a judge beside it."""
    RewardModel.from_language_model(str(tiny_folder)).save(tmp_path / "reward")
    Judge(load_encoder(str(tiny_encoder)), load_tokenizer(str(tiny_encoder))).save(tmp_path / "judge")
    rewards = {str(tmp_path / "reward"): 1.0}
    run_ppo(replace(ppo_config, run=str(tmp_path / "ppo"), rewards=rewards, responses=8), mode="quiet", preflight="off")
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What is loaded, with the device that it was to be loaded on; it is loaded on the CPU."""
    seen = {}

    def recording(name, load):
        def recorded(folder, *, device="cpu", **settings):
            seen[name, str(folder).rpartition("/")[2]] = str(device)
            return load(folder, **settings)

        return recorded

    monkeypatch.setattr(comparison, "load_causal_model", recording("model", comparison.load_causal_model))
    load = reward_loading.load_labelled_classifier
    monkeypatch.setattr(reward_loading, "load_labelled_classifier", recording("reward model", load))
    monkeypatch.setattr(Judge, "load", recording("Judge", Judge.load))
    return seen


@pytest.mark.parametrize(
    ("trained", "there", "where"),
    [
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
        ("cuda", False, "cpu"),
        ("auto", False, "cpu"),
        ("cpu", True, "cpu"),
    ],
)
def test_everything_is_loaded_where_the_run_was_trained_if_that_is_there(
    finished, asked, monkeypatch, trained, there, where
):
    file = finished / "ppo" / "config.toml"
    file.write_text(file.read_text().replace('device = "auto"', f'device = "{trained}"'))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    side_by_side(finished, count=2)
    models = {("model", "tiny"): where, ("model", "policy"): where, ("reward model", "reward"): where}
    assert asked == models
    compare(finished, count=5)
    assert asked == {**models, ("Judge", "judge"): where}


def test_it_is_said_that_prompts_were_trained_on_and_which_are_left_out(finished, ppo_config):
    """A gain on training prompts is not the one that counts, and prompts that are too long are missed otherwise."""
    trained_on = f"the run names no held-out prompts: these are of {ppo_config.prompts}, which it was trained on"
    assert compare(finished, count=5)["notes"] == side_by_side(finished, count=2)["notes"] == [trained_on]
    held_out = finished / "held_out.jsonl"
    held_out.write_text("".join(json.dumps({"prompt": " ".join(["w9"] * n)}) + "\n" for n in (2, 600, 3)))
    dropped = f"dropped 1 of 3 prompts of {held_out}: longer than 512 tokens (the longest has 600)"
    assert compare(finished, prompts=str(held_out), count=5)["notes"] == [dropped]
    file = finished / "ppo" / "config.toml"
    file.write_text(file.read_text().replace('held_out = ""', f'held_out = "{held_out}"'))
    assert side_by_side(finished)["notes"] == [dropped]
    long = side_by_side(finished, ["w5 " * 600, "w6"])
    assert [row["prompt"] for row in long["answers"]] == ["w6"]
    assert "dropped 1 of 2 prompts" in long["notes"][0]


def test_divergence_is_measured_where_the_model_is():
    assert _Scoring(llama().to("meta")).value_head.weight.device.type == "meta"
