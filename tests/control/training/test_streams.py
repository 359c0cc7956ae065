"""The seed decides what draws from global streams of random numbers, and the caller's stay as they are."""

import random

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

import proximo
from proximo.errors import UserError

FEW = {"steps": 256, "environments": 2, "rollout_length": 32, "update": {"minibatch_size": 32}}
FEW |= {"backend": "gymnasium", "progress": "quiet", "episodes": 2}


class Noisy(nn.Module):
    """A network with a layer that draws from torch's own stream as it acts."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.actor, self.critic = nn.Linear(inputs, outputs), nn.Linear(inputs, 1)

    def forward(self, x):
        noise = 0.0 if torch.is_grad_enabled() else 0.0 * torch.randn(len(x), 1)
        return self.actor(x) + noise, self.critic(x).squeeze(-1)


class Windy(gymnasium.Wrapper):
    """CartPole with a reward that draws from all three streams."""

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))

    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, draw(), *rest


def draw():
    return random.random() + float(np.random.rand()) + float(torch.rand(()))


def returns(run):
    return [row["return"] for row in proximo.metrics(run)]


def test_the_seed_decides_a_run_whose_environment_draws_from_global_streams(tmp_path):
    first = proximo.train(Windy, run=tmp_path / "a", seed=3, **FEW)
    draw()
    again = proximo.train(Windy, run=tmp_path / "b", seed=3, **FEW)
    other = proximo.train(Windy, run=tmp_path / "c", seed=4, **FEW)
    assert returns(first) == returns(again) != returns(other)
    assert first.results["final_sampled"] == again.results["final_sampled"]


def test_a_run_that_was_stopped_goes_on_with_its_own_streams(tmp_path):
    whole = proximo.train(Windy, run=tmp_path / "a", checkpoint_every=64, **FEW)
    proximo.train(Windy, run=tmp_path / "b", checkpoint_every=64, stop_at=128, **FEW)
    draw()
    resumed = proximo.train(Windy, run=tmp_path / "b", checkpoint_every=64, **FEW)
    assert [row["reward_mean"] for row in proximo.metrics(whole)] == pytest.approx(
        [row["reward_mean"] for row in proximo.metrics(resumed)], abs=0
    )


def test_training_does_not_notice_evaluations(tmp_path):
    plain = proximo.train(Windy, run=tmp_path / "a", **FEW)
    looked_at = proximo.train(Windy, run=tmp_path / "b", evaluate_every=64, **FEW)
    assert [row["reward_mean"] for row in proximo.metrics(plain)] == [
        row["reward_mean"] for row in proximo.metrics(looked_at)
    ]


def test_the_callers_streams_stay_what_they_are(tmp_path):
    def seeded():
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)

    seeded()
    expected = [draw() for _ in range(12)]
    seeded()
    found = [draw()]
    run = proximo.train("CartPole-v1", run=tmp_path / "a", **FEW)
    found.append(draw())
    found += [draw() for _ in proximo.Trainer(Windy, run=tmp_path / "b", **FEW)]  # the loop draws its own numbers
    proximo.load(run.path)
    found.append(draw())
    proximo.evaluate(run.path, 2)
    found.append(draw())
    assert found == expected[: len(found)]
    assert len(found) > 5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": "x"}, "seed = 'x' must be a whole number"),
        ({"seed": 1.5}, "seed = 1.5 must be a whole number"),
        ({"episodes": 1.5}, "episodes = 1.5 must be a whole number"),
        ({"episode_limit": 2.5}, "episode_limit = 2.5 must be a whole number"),
    ],
)
def test_an_evaluation_of_no_whole_numbers_is_refused(tmp_path, given, said):
    with pytest.raises(UserError, match=said):
        proximo.evaluate(tmp_path, **given)
