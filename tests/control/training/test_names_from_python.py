"""Keywords of other libraries are answered with ours, and a run may be asked wherever its folder may."""

import pytest

import proximo
from proximo.errors import UserError

SMALL = {"steps": 64, "environments": 2, "rollout_length": 32, "update": {"minibatch_size": 32}, "progress": "quiet"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_steps": 3}, "there is no setting n_steps: here it is rollout_length"),
        ({"total_timesteps": 3}, "there is no setting total_timesteps: here it is steps"),
        ({"ent_coef": 0.1}, 'there is no setting ent_coef: here it is update={"entropy_coefficient": ...}'),
        ({"policy_kwargs": {}}, 'there is no setting policy_kwargs: here it is network={"hidden": ...} 64 64'),
        ({"verbose": 1}, 'there is no setting verbose: here it is progress="quiet"'),
        ({"use_sde": True}, 'there is no setting use_sde: here it is network={"noise": ...} gsde'),
        ({"network": [64, 64]}, "network={'hidden': [64, 64]}"),
    ],
)
def test_names_of_other_libraries_are_answered(given, said, tmp_path):
    with pytest.raises(proximo.UserError) as error:
        proximo.train("CartPole-v1", run=tmp_path / "r", **given)
    assert said in str(error.value)


def test_a_run_stands_for_its_folder_and_one_callback_for_a_list(tmp_path):
    seen = []
    run = proximo.train("CartPole-v1", run=tmp_path / "r", callbacks=lambda t, metrics: seen.append(metrics), **SMALL)
    assert seen
    assert proximo.load(run).act([0.0] * 4) in (0, 1)
    assert proximo.evaluate(run, 2)["episodes"] == 2
    assert len(proximo.metrics(run)) == len(seen)
    assert str(proximo.diagnose(run)) == str(proximo.diagnose(run.path))
    assert proximo.replay(run).exact


def test_quiet_is_answered_with_the_keyword_that_does_it():
    with pytest.raises(UserError, match='there is no setting quiet: here it is progress="quiet"'):
        proximo.train("CartPole-v1", quiet=True)


def test_a_minibatch_that_cuts_sequences_is_answered_with_one_that_fits():
    settings = {
        "network": {"memory": "gru"},
        "update": {"minibatch_size": 64},
        "environments": 16,
        "rollout_length": 128,
    }
    with pytest.raises(UserError, match="whole sequences: try 128"):
        proximo.train("CartPole-v1", **settings)
