"""Where a finished run is asked: on the device that it was trained on, or on the CPU where there is no such device."""

from dataclasses import replace

import pytest
import torch
from tiny import llama

from proximo.language import comparison
from proximo.language.chat import side_by_side
from proximo.language.comparison import compare
from proximo.language.evaluation import _Scoring
from proximo.language.judge import Judge
from proximo.language.models import load_encoder, load_tokenizer
from proximo.language.reward_model import RewardModel
from proximo.language.train import run_ppo


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
    for cls in (RewardModel, Judge):
        monkeypatch.setattr(cls, "load", recording(cls.__name__, cls.load))
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
    models = {("model", "tiny"): where, ("model", "policy"): where, ("RewardModel", "reward"): where}
    assert asked == models
    compare(finished, count=5)
    assert asked == {**models, ("Judge", "judge"): where}


def test_divergence_is_measured_where_the_model_is():
    assert _Scoring(llama().to("meta")).value_head.weight.device.type == "meta"
