"""Environments that are made already are trained in as they are, and stay their owner's."""

import math

import gymnasium
import numpy as np
import pytest
from answering import Answering
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import FlattenObservation

import proximo
from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments, name_of
from proximo.control.result import default_run
from proximo.errors import UserError

SMALL = {"steps": 256, "rollout_length": 64, "episodes": 2, "update": {"minibatch_size": 64}, "progress": "quiet"}


class Limited(Answering):
    """Five steps of 1; knows whether it was closed."""

    closed = False

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        assert not self.closed
        return observation, reward, terminated, self.now == 5, info

    def close(self):
        self.closed = True


def test_an_environment_is_trained_in_alone_and_left_open(tmp_path):
    env = Limited()
    run = proximo.train(env, run=tmp_path / "run", **SMALL)
    assert run.config.environments == 1
    assert (run.results["last_100_training_return"], run.results["final_deterministic"]) == (5.0, 5.0)
    assert not env.closed
    assert env.step(0)[1] == 1.0
    assert proximo.load(run.path).act(np.zeros(2, np.float32)) in (0, 1)


def test_the_folder_of_an_environment_object_has_its_classes_names_without_gymnasiums_own():
    env = gymnasium.make("CartPole-v1")
    folders = {"runs/CartPoleEnv-tuned-0": env, "runs/CartPoleEnv-FlattenObservation-tuned-0": FlattenObservation(env)}
    for folder, source in folders.items():
        assert default_run(TrainConfig(environment=name_of(source))) == folder


def test_the_rollout_is_as_large_as_that_of_many(tmp_path):
    settings = {name: value for name, value in SMALL.items() if name != "rollout_length"}
    run = proximo.train(gymnasium.make("CartPole-v1"), run=tmp_path / "run", **settings)
    many = proximo.train("CartPole-v1", run=tmp_path / "many", **settings)
    assert run.config.environments == 1 < many.config.environments
    assert run.config.rollout_size == many.config.rollout_size
    # Its preset is found by its id.
    assert run.config.learning_rate == many.config.learning_rate != TrainConfig().learning_rate


def test_a_stopped_run_goes_on_in_the_same_environment(tmp_path):
    env = Limited()
    proximo.train(env, run=tmp_path / "run", stop_at=64, **SMALL)
    resumed = proximo.train(env, run=tmp_path / "run", **SMALL)
    assert resumed.results["exact_resume"]
    assert resumed.results["steps"] >= SMALL["steps"]


def test_more_copies_than_there_are_need_a_function(tmp_path):
    with pytest.raises(
        UserError, match="is one environment, and 4 are asked for: set environments = 1, or give a func"
    ):
        proximo.train(Limited(), run=tmp_path / "run", environments=4, **SMALL)
    with pytest.raises(UserError, match="evaluate_every needs environments beside"):
        proximo.train(Limited(), run=tmp_path / "run", evaluate_every=64, **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_vector_environment_brings_its_own_number(tmp_path):
    vector = SyncVectorEnv([Limited] * 3, autoreset_mode=AutoresetMode.NEXT_STEP)
    run = proximo.train(vector, run=tmp_path / "run", **{**SMALL, "update": {"minibatch_size": 96}})
    assert run.config.environments == 3
    assert run.results["final_deterministic"] == 5.0
    assert not vector.closed
    vector.close()


def test_what_is_made_already_takes_no_options_and_no_process():
    with pytest.raises(UserError, match="are for what makes an environment"):
        make_environments(Limited(), 1, options={"size": 3})
    with pytest.raises(UserError, match="can not run on backend 'subprocess'"):
        make_environments(Limited(), 1, backend="subprocess")


@pytest.mark.parametrize(
    ("thing", "why"),
    [
        (math, "math is a module and no environment: name the function in it"),
        ([Limited], "a list is no environment: give one function that makes one; `environments` says how many"),
        ({"make": Limited}, "a dict is no environment: give one function"),
        (3, "an int is no environment: give a name, a function"),
        (None, "None is no environment"),
    ],
)
def test_what_is_no_environment_is_told_in_one_sentence(thing, why):
    with pytest.raises(UserError) as caught:
        proximo.train(thing, **SMALL)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no environment"):
        make_environments(thing, 1)


@pytest.mark.parametrize(
    ("made", "why"),
    [(None, "returned None: it must return"), ([Limited()], "returned a list: it must return one environment")],
)
def test_a_function_that_makes_no_environment_is_told_so(made, why):
    with pytest.raises(UserError, match=why):
        make_environments(lambda: made, 1)
