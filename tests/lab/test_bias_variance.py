"""Bias and variance of advantages in a world small enough to know them: two doors, then a walk with noise."""

import gymnasium
import numpy as np
import pytest

from proximo.lab.advantage_errors import LAMBDAS, PERFECT, Plan, study
from proximo.lab.continuations import Robot, follow, sampled_returns
from proximo.lab.experiments.bias_variance import LEARNT, POOR
from proximo.lab.policies import settings, training

GAMMA = 0.7
CHOICES = 4
"""In every state an action, 0 to 3, is drawn evenly; the next state is 1 + action, after 20 steps it is over."""
WORTH = np.array([0.0, -2.0, 1.0, 0.5, 3.0])
"""What is paid for being in a state."""


class Doors:
    """Rows of (state, steps done). The first step pays nothing; each later one what its state is worth."""

    def __init__(self, seed):
        self.draw = np.random.default_rng(seed)

    def act(self, states):
        return self.draw.integers(CHOICES, size=len(states))

    def step(self, states, actions):
        following = np.stack([1 + actions, states[:, 1] + 1], 1)
        return following, WORTH[states[:, 0]], following[:, 1] >= 20


def exact(states):
    """V of each row: its state's worth, then the mean of all worths for as long as it lasts."""
    left = 20 - states[:, 1]
    mean = WORTH[1:].mean()
    later = mean * np.array([sum(GAMMA**k for k in range(1, n)) for n in left])
    return np.where(left > 0, WORTH[states[:, 0]] + later, 0.0)


def wrong(states):
    """A critic that has it the wrong way round, and far too high."""
    return 10.0 - WORTH[states[:, 0]]


@pytest.fixture(scope="module")
def found():
    plan = Plan(states=60, actions=3, paths=100, length=25, perfect=(20, 25), truth=100, inner=4)
    starts = np.zeros((plan.states, 2), int)
    critics = {LEARNT: exact, POOR: wrong}
    return study(Doors(0), critics, starts, plan, GAMMA)


def signal():
    """Variance of gamma WORTH over actions that are drawn evenly."""
    return GAMMA**2 * WORTH[1:].var()


def test_the_truth_differs_between_actions_as_the_world_says(found):
    assert found[PERFECT]["signal"] == pytest.approx(signal(), rel=0.15)


@pytest.mark.parametrize("critic", [PERFECT, LEARNT, POOR])
def test_all_of_the_return_is_unbiased_with_any_critic(found, critic):
    assert found[critic]["bias"][LAMBDAS.index(1.0)] == pytest.approx(0.0, abs=0.25)


@pytest.mark.parametrize("critic", [PERFECT, LEARNT])
def test_a_true_critic_has_no_bias_anywhere_and_no_variance_in_one_step(found, critic):
    for bias in found[critic]["bias"]:
        assert bias == pytest.approx(0.0, abs=0.25)
    assert found[critic]["variance"][0] == pytest.approx(0.0, abs=1e-9)
    assert found[critic]["variance"] == sorted(found[critic]["variance"])


def test_the_bias_of_one_step_is_the_critics_error_between_actions(found):
    """gamma (V_wrong - V) differs by -2 gamma WORTH, so the squared bias is four times the signal."""
    assert found[POOR]["bias"][0] == pytest.approx(4 * signal(), rel=0.15)


def test_the_variance_of_the_whole_return_is_that_of_its_rewards(found):
    """After the first action 18 draws are left, each paid once, the first of them two steps later."""
    expected = WORTH[1:].var() * sum(GAMMA ** (2 * t) for t in range(2, 20))
    for critic in (LEARNT, POOR):
        assert found[critic]["variance"][-1] == pytest.approx(expected, rel=0.1)


def test_what_sampling_adds_is_taken_off():
    """With few continuations the truth and the perfect critic are both uncertain, apart from each other."""
    plan = Plan(states=300, actions=3, paths=2, length=25, perfect=(2, 3), truth=8, inner=1)
    found = study(Doors(3), {}, np.zeros((300, 2), int), plan, GAMMA)
    assert found[PERFECT]["bias"][0] == pytest.approx(0.0, abs=0.1)
    assert found[PERFECT]["signal"] == pytest.approx(signal(), rel=0.15)


def test_after_the_end_nothing_is_worth_anything():
    plan = Plan(states=20, actions=3, paths=2, length=5, perfect=(2, 3), truth=8, inner=1)
    found = study(Doors(4), {POOR: wrong}, np.full((20, 2), (0, 19)), plan, GAMMA)
    for critic in (PERFECT, POOR):
        assert found[critic]["signal"] == 0.0
        assert found[critic]["bias"] == [0.0] * len(LAMBDAS)


def test_paths_stand_still_after_their_end_and_cost_nothing_more():
    paths = follow(Doors(1), np.array([[0, 18], [0, 0]]), 5)
    assert paths.terminated[:, 0].tolist() == [False, True, True, True, True]
    assert not paths.terminated[:, 1].any()
    assert (paths.rewards[2:, 0] == 0).all()
    assert (paths.states[2:, 0] == paths.states[2, 0]).all()
    assert paths.returns(0.5)[0] == paths.rewards[0, 0] + 0.5 * paths.rewards[1, 0]


def test_sampled_returns_have_the_mean_that_the_world_has():
    states = np.array([[2, 3], [4, 10], [0, 19]])
    sampled = sampled_returns(Doors(2), states, 4000, 20, GAMMA)
    assert sampled.mean(1) == pytest.approx(exact(states), abs=0.2)


def test_a_robot_goes_on_from_a_saved_state_as_its_environment_does():
    task = "InvertedPendulum-v5"
    with training(settings(task, steps=4096)) as begun:
        robot = Robot(task, begun.policy, 0)
        env = gymnasium.make(task)
        env.reset(seed=3)
        state = robot.starts(1, 3)
        commands = begun.policy.actions
        for action in np.random.default_rng(0).normal(size=(6, 1, 1)).astype(np.float32):
            state, reward, ended = robot.step(state, action)
            seen, paid, over, _, _ = env.step(commands.to_environment(action)[0])
            np.testing.assert_allclose(state[0], seen, rtol=1e-6, atol=1e-9)
            assert (reward[0], ended[0]) == (paid, over)
