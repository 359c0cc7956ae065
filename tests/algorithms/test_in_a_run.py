"""Each algorithm in a run: named, stored, resumed and replayed bit for bit, and examined by the doctor."""

import pytest
from command_lines import refused
from same_runs import PLAN, same_runs

import proximo
from proximo.algorithms import A2C, REINFORCE, TRPO, PPOPenalty
from proximo.cli.main import main
from proximo.control.presets import usual_preset
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.runs.config.toml import read_toml
from proximo.runs.plugins import find_own

NAMES = {"a2c": A2C, "ppo-penalty": PPOPenalty, "reinforce": REINFORCE, "trpo": TRPO}
SETTINGS = {
    "a2c": {},
    "ppo-penalty": {"epochs": 2, "minibatch_size": 32, "kl_target": 1e-4},
    "reinforce": {"baseline": True},
    "trpo": {"critic_epochs": 2, "minibatch_size": 32},
}


def plan(name):
    return PLAN | {"update": SETTINGS[name]}


@pytest.mark.parametrize("name", NAMES)
def test_it_resumes_and_replays_bit_for_bit(name, tmp_path):
    whole = proximo.train("CartPole-v1", name, run=tmp_path / "whole", **plan(name))
    assert proximo.train("CartPole-v1", name, run=tmp_path / "half", stop_at=300, **plan(name)).stopped
    same_runs(whole, proximo.train("CartPole-v1", NAMES[name], run=tmp_path / "half", **plan(name)))
    assert proximo.replay(whole).exact
    assert read_toml(whole.path / "config.toml")["update"]["algorithm"] == name
    assert proximo.diagnose(whole) is not None


def test_the_penalty_goes_on_from_the_coefficient_that_it_had(tmp_path):
    """Steered in every iteration, so a resume that began anew would differ: the rows say that it does move."""
    run = proximo.train("CartPole-v1", "ppo-penalty", run=tmp_path / "r", **plan("ppo-penalty"))
    seen = {row["kl_coefficient"] for row in proximo.metrics(run)}
    assert len(seen) > 2


@pytest.mark.parametrize("name", NAMES)
def test_its_own_preset_gives_the_numbers(name):
    by_name, by_class = (proximo.Trainer("CartPole-v1", given).config for given in (name, NAMES[name]))
    assert by_name == by_class
    assert (by_name.preset, type(by_name.update)) == (name, NAMES[name])
    tuned = proximo.Trainer("CartPole-v1", name, preset="tuned").config
    assert (tuned.preset, type(tuned.update)) == ("tuned", NAMES[name])
    assert tuned.rollout_length == 32


def test_ppo_by_its_name_is_the_usual_run():
    assert proximo.Trainer("CartPole-v1", "ppo").config == proximo.Trainer("CartPole-v1").config
    assert usual_preset(None) == usual_preset("my:Own") == usual_preset("ppo") == "tuned"


def test_every_name_is_that_of_a_class():
    for path in UpdateSettings.shipped.values():
        assert issubclass(find_own(path, "algorithm"), proximo.algorithms.PPO)


@pytest.mark.parametrize(
    ("name", "setting", "reason"),
    [
        ("a2c", "clip", "the ratio is 1"),
        ("a2c", "epochs", "learns once"),
        ("reinforce", "minibatch_size", "one gradient step"),
        ("ppo-penalty", "clip", "penalty"),
        ("trpo", "target_kl", "max_kl bounds the step"),
        ("trpo", "value_coefficient", "apart from the policy"),
    ],
)
def test_what_it_lacks_is_refused_with_the_reason(name, setting, reason, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{NAMES[name].__name__} has no {setting}: .*{reason}"):
        proximo.train("CartPole-v1", name, update={setting: 3})
    with pytest.raises(ValueError, match=reason):
        NAMES[name](**{setting: 3})
    option = f"--update.{setting.replace('_', '-')}"
    code = main(["train", "CartPole-v1", "--algorithm", name, option, "3"])
    refused((code, *capsys.readouterr()), f"there is no option {option}", reason)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_name_is_answered_with_the_nearest(capsys):
    for wrong, meant in (("tpro", "trpo"), ("A2C", "a2c")):
        code = main(["train", "CartPole-v1", "--algorithm", wrong])
        refused((code, *capsys.readouterr()), f"did you mean {meant}?", "ppo-penalty")


def test_reinforce_without_a_baseline_has_no_critic_to_measure(tmp_path):
    settings = PLAN | {"rollout_length": 64, "steps": 256 * 4, "update": {"baseline": False}}
    run = proximo.train("CartPole-v1", "reinforce", run=tmp_path / "r", **settings)
    assert all(row["explained_variance"] is None and row.get("value_loss") is None for row in proximo.metrics(run))
    assert repr(run) == f"Run({str(run.path)!r}, CartPole-v1, {run.results['steps']:,} steps)"
    assert proximo.replay(run).exact


@pytest.mark.parametrize("name", ["rloo", "grpo"])
def test_what_is_for_language_models_says_so(name, capsys):
    code = main(["train", "CartPole-v1", "--algorithm", name])
    refused((code, *capsys.readouterr()), "is not for this kind of run", "responses of a language model")
