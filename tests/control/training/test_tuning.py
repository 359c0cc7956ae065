"""A search for settings: it goes on where it was, ends hopeless trials, and its best is a preset."""

import json
import sys
import time
import tomllib

import numpy as np
import optuna
import pytest
import warm

import proximo
from proximo.cli.main import main as cli
from proximo.control import tuning
from proximo.control.presets import configure
from proximo.control.tuning.search import standings
from proximo.control.tuning.spaces import SPACES, with_settings

SMALL = {
    "steps": 512,
    "environments": 4,
    "rollout_length": 16,
    "episodes": 1,
    "episode_limit": 50,
    "backend": "gymnasium",
}
SMALL |= {"update": {"minibatch_size": 32}, "network": {"hidden": [8]}}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Three trials, and then five in all."""
    folder = tmp_path_factory.mktemp("search") / "pole"
    first = proximo.tune("CartPole-v1", trials=3, space="credit", run=folder, progress=False, **SMALL)
    return first, proximo.tune("CartPole-v1", trials=5, space="credit", run=folder, progress=False, **SMALL)


def study(folder):
    return optuna.load_study(study_name="proximo", storage=f"sqlite:///{folder / 'study.db'}")


def test_the_same_search_goes_on_with_other_draws(found):
    first, second = found
    assert (first.trials, second.trials) == (3, 5)
    trials = study(second.path).trials
    assert len({trial.params["1 - gamma"] for trial in trials}) == len(trials) == 5
    assert second.best_return == max(trial.value for trial in trials if trial.value is not None)
    for trial in trials:
        rows = proximo.metrics(second.path / f"trial-{trial.number:04d}")
        assert rows[-1]["return"] == pytest.approx(trial.value)


def test_the_best_is_a_preset_of_the_numbers_that_were_trained_with(found):
    _, second = found
    config, preset = configure("CartPole-v1", str(second.path / "best.toml"))
    best = max(study(second.path).trials, key=lambda trial: trial.value)
    trained = tomllib.loads((second.path / f"trial-{best.number:04d}" / "config.toml").read_text())
    assert config.gamma == trained["gamma"] == pytest.approx(1 - best.params["1 - gamma"])
    assert (config.lam, config.environments, config.network.hidden) == (trained["lam"], 4, (8,))
    assert f"trial {best.number}, the best of 5" in preset.source


def test_a_small_search_says_from_how_many_trials_on_it_tells_what_mattered(tmp_path, capsys):
    settings = ["--steps", "256", "--trials", "1", "--space", "credit", "--run", str(tmp_path / "search")]
    assert cli(["tune", "CartPole-v1", *settings]) == 0
    said = capsys.readouterr().out
    assert "importance" not in said
    assert "what mattered is told from 20 trials on; there are 1 so far" in said


def test_a_task_that_there_is_not_leaves_nothing_behind(tmp_path):
    with pytest.raises(proximo.UserError, match="no environment 'Nope-v1'"):
        proximo.tune("Nope-v1", run=tmp_path / "search", **SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("asked", "words"),
    [({"launch": "slurm"}, "launch"), ({"restarts": 2}, "restarts = 2 is for the workers of a cluster")],
)
def test_a_launcher_that_there_is_not_is_refused(asked, words, tmp_path):
    for call in (proximo.tune, lambda *given, **more: proximo.train_seeds(*given, seeds=[1], **more)):
        with pytest.raises(proximo.UserError, match=words):
            call("CartPole-v1", run=tmp_path / "search", **SMALL, **asked)
    assert not list(tmp_path.iterdir())


def test_another_search_in_its_folder_is_refused(found):
    with pytest.raises(proximo.UserError, match="search with other settings or another space"):
        proximo.tune("CartPole-v1", trials=9, space="optimiser", run=found[1].path, progress=False, **SMALL)
    with pytest.raises(proximo.UserError, match="no search space 'credits': did you mean credit"):
        proximo.tune("CartPole-v1", space="credits", run=found[1].path, **SMALL)
    assert len(study(found[1].path).trials) == 5


@pytest.mark.parametrize("name", sorted(SPACES))
def test_all_that_a_space_draws_are_settings(name):
    base = proximo.Trainer("CartPole-v1", environments=16).config
    search = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        config = with_settings(base, SPACES[name](search.ask()))
        assert config.environments == 16
        assert 0.9 <= config.gamma < 1
        assert config.environments * config.rollout_length % config.update.minibatch_size == 0


def test_a_trial_below_the_median_is_ended_early(tmp_path, monkeypatch):
    """Seven trials whose return is planted: number n returns n, but the last two nothing."""

    def rows(trainer):
        number = int(trainer.folder.name.rpartition("-")[2])
        for look in range(1, 21):
            yield {"step": 512 * look // 20, "return": float(number) if number < 5 else -1.0}

    monkeypatch.setattr(proximo.Trainer, "_rows", rows)
    proximo.tune("CartPole-v1", trials=7, space="credit", run=tmp_path / "x", progress=False, **SMALL)
    states = [trial.state.name for trial in study(tmp_path / "x").trials]
    assert states == ["COMPLETE"] * 5 + ["PRUNED"] * 2
    assert all(len(trial.intermediate_values) < 10 for trial in study(tmp_path / "x").trials[5:])


def test_a_search_that_is_killed_goes_on(tmp_path):
    """What was under way is given up, and another trial takes its place."""
    code = "import sys, json, proximo; proximo.tune('CartPole-v1', trials=2, space='credit', **json.loads(sys.argv[1]))"
    asked = {**SMALL, "steps": 3_000}
    folder = tmp_path / "x"
    process = warm.Popen([sys.executable, "-c", code, json.dumps({**asked, "run": str(folder)})])
    file = folder / "trial-0000" / "metrics.jsonl"
    while not (file.exists() and file.stat().st_size):
        assert process.poll() is None
        time.sleep(0.005)
    process.kill()
    process.wait()
    under_way = [trial.number for trial in study(folder).trials if trial.state.name == "RUNNING"]
    assert len(under_way) == 1
    found = proximo.tune("CartPole-v1", trials=2, run=folder, space="credit", progress=False, **asked)
    assert found.trials == 2
    assert study(folder).trials[under_way[0]].state.name == "FAIL"


def test_the_setting_that_decides_is_found_by_twenty_trials_in_most_searches():
    """One of seven decides: by chance it would be first in 6 of 40 searches."""
    law = optuna.distributions.FloatDistribution(-1.0, 1.0)
    stream, found = np.random.default_rng(0), []
    for _ in range(40):
        study = optuna.create_study(direction="maximize")
        for _ in range(tuning.FEWEST):
            drawn = {f"setting {i}": float(stream.uniform(-1, 1)) for i in range(7)}
            value = -(drawn["setting 3"] ** 2) + 0.1 * float(stream.normal())
            study.add_trial(
                optuna.trial.create_trial(params=drawn, distributions=dict.fromkeys(drawn, law), value=value)
            )
        shares = tuning.importance_of(study)
        found.append(max(shares, key=shares.__getitem__) == "setting 3")
    assert sum(found) >= 28


def test_fewer_trials_say_nothing_of_what_mattered():
    study = optuna.create_study(direction="maximize")
    law = optuna.distributions.FloatDistribution(-1.0, 1.0)
    for i in range(tuning.FEWEST - 1):
        study.add_trial(optuna.trial.create_trial(params={"x": i / 20}, distributions={"x": law}, value=float(i)))
    assert tuning.importance_of(study) == {}


def test_trials_that_were_ended_early_count_by_how_they_stood_then():
    """One of seven decides, and two trials of three fall behind the median at their eighth look."""
    law = optuna.distributions.FloatDistribution(-1.0, 1.0)
    stream, study = np.random.default_rng(0), optuna.create_study(direction="maximize")
    for i in range(tuning.FEWEST + 10):
        drawn = {f"setting {k}": float(stream.uniform(-1, 1)) for k in range(7)}
        value = 1 - drawn["setting 3"] ** 2
        how = {"intermediate_values": {look: value * look / 20 for look in range(1, 9 if i % 3 else 21)}}
        how |= {"state": optuna.trial.TrialState.PRUNED} if i % 3 else {"value": value}
        study.add_trial(optuna.trial.create_trial(params=drawn, distributions=dict.fromkeys(drawn, law), **how))
    ahead = [standing for _, standing in standings(study)]
    values = [1 - trial.params["setting 3"] ** 2 for trial in study.trials]
    assert np.argsort(ahead).tolist() == np.argsort(values).tolist(), "however far each has come"
    shares = tuning.importance_of(study)
    assert max(shares, key=shares.__getitem__) == "setting 3"
    assert shares["setting 3"] > 0.5


def test_a_search_is_refused_where_a_launcher_has_started_it_as_several_ranks(tmp_path, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(proximo.UserError, match="tune is for one process, and a launcher has started 4: call it with"):
        proximo.tune("CartPole-v1", run=tmp_path / "x")
    with pytest.raises(proximo.UserError, match="several seeds at once is for one process, and a launcher has start"):
        proximo.train_seeds("CartPole-v1", seeds=[0, 1], parallel=2, run=tmp_path / "x")
    with pytest.raises(proximo.UserError, match="distill is for one process, and a launcher has started 4: call it"):
        proximo.distill(tmp_path / "teacher", "CartPole-v1", run=tmp_path / "x")
    assert not list(tmp_path.iterdir())
