"""Returns and lengths are those of the task's own episodes."""

import gymnasium
import numpy as np
import pytest
from environments_for_tests import counting_vector
from gymnasium import spaces
from gymnasium.vector import AutoresetMode

from proximo.control.environments import EpisodeCounter, Step, make_environments


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("seed", [0, 1, 6])
def test_every_episode_is_counted_once_and_whole(mode, seed):
    environments = make_environments(lambda: counting_vector(1, mode), 1)
    environments.reset([seed])
    counter = EpisodeCounter(1)
    counted = [episode for _ in range(40) for episode in counter.update(environments.step(np.zeros(1, np.int64)))]
    lengths = [1 + (seed + 2 * episode) % 4 for episode in range(len(counted))]
    returns = [sum(100.0 * episode + now for now in range(1, n + 1)) for episode, n in enumerate(lengths)]
    assert len(counted) >= 10
    assert counted == list(zip(returns, lengths, returns, strict=True))


def test_environments_are_counted_apart():
    environments = make_environments(lambda: counting_vector(2), 2)
    environments.reset([0, 3])
    counter = EpisodeCounter(2)
    counted = [counter.update(environments.step(np.zeros(2, np.int64))) for _ in range(4)]
    # Seed 0 has episodes of 1 and 3 steps, seed 3 of 4.
    assert counted == [[(1.0, 1, 1.0)], [], [], [(306.0, 3, 306.0), (10.0, 4, 10.0)]]


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_the_return_of_cartpole_is_its_length(backend):
    environments = make_environments("CartPole-v1", 4, backend=backend)
    environments.reset(range(4))
    counter = EpisodeCounter(4)
    ended = [episode for t in range(100) for episode in counter.update(environments.step(np.full(4, int(t % 3 == 0))))]
    assert len(ended) > 10
    assert all(episode.value == episode.length for episode in ended)


class Paid(gymnasium.Env):
    """Pays 1, 2, 3, ... and ends after six steps."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.now += 1
        return np.zeros(1, np.float32), float(self.now), self.now == 6, False, {}


class Skip(gymnasium.Wrapper):
    """Two steps of the task for one; the first step of an episode is taken in the reset."""

    def reset(self, **options):
        self.env.reset(**options)
        observation, *_, info = self.env.step(0)
        return observation, info

    def step(self, action):
        self.env.step(action)
        return self.env.step(action)


class Around(gymnasium.Wrapper):
    """Steps the task behind the back of what is between."""

    def step(self, action):
        return self.unwrapped.step(action)


def wrapped(wrappers):
    env = Paid()
    for wrapper in wrappers:
        env = wrapper(env)
    return env


def hundredth(env):
    return gymnasium.wrappers.TransformReward(env, lambda r: 0.01 * r)


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
@pytest.mark.parametrize(
    ("wrappers", "given", "paid"),
    [
        ([], 21.0, 21.0),
        ([lambda env: gymnasium.wrappers.TimeLimit(env, 4)], 10.0, 10.0),
        ([hundredth], 0.21, 21.0),
        ([hundredth, lambda env: gymnasium.wrappers.TimeLimit(env, 4), hundredth], 0.001, 10.0),
        # Gives 3 and 5 for what the task pays in two steps each, 2 + 3 and 4 + 5; the first was taken in the reset.
        ([Skip, lambda env: gymnasium.wrappers.TimeLimit(env, 2)], 8.0, 14.0),
        ([hundredth, Around], 21.0, 21.0),
    ],
    ids=["bare", "limited", "scaled", "twice", "skipping", "around"],
)
def test_returns_are_those_of_the_given_environment_and_of_the_task_below(backend, wrappers, given, paid):
    environments = make_environments(lambda: wrapped(wrappers), 2, backend=backend)
    environments.reset([0, 1])
    counter, rewards, ended = EpisodeCounter(2), 0.0, []
    while not ended:
        step = environments.step(np.zeros(2, np.int64))
        rewards += step.reward[0]
        ended = counter.update(step)
    environments.close()
    assert rewards == pytest.approx(given)
    assert [episode.value for episode in ended] == pytest.approx([given] * 2)
    assert [episode.task_value for episode in ended] == pytest.approx([paid] * 2)


def test_restart_forgets_the_episodes_in_progress():
    environments = make_environments("CartPole-v1", 1)
    counter = EpisodeCounter(1)
    lengths = []
    for _ in range(2):
        environments.reset([0])
        counter.restart()
        for _ in range(3):
            counter.update(environments.step(np.zeros(1, np.int64)))
    for _ in range(30):
        lengths += [episode.length for episode in counter.update(environments.step(np.zeros(1, np.int64)))]
    assert lengths[0] < 12  # a pole that is only pushed to the left falls within about ten steps


def test_raw_rewards_of_valid_rows_are_summed_across_lost_lives():
    counter = EpisodeCounter(2)
    no = np.zeros(2, bool)

    def update(valid, life_lost, over, raw, task):
        observation = np.zeros((2, 1))
        return counter.update(
            Step(
                observation=observation,
                final_observation=observation,
                reward=np.ones(2),
                terminated=np.array(life_lost) | np.array(over),
                truncated=no,
                valid=np.array(valid),
                started=~np.array(valid),
                raw_reward=np.array(raw),
                task_reward=np.array(task),
                episode_over=np.array(over),
                mask=None,
            )
        )

    assert update([True, True], [True, False], [False, False], [10.0, 1.0], [1.0, 2.0]) == []
    assert update([False, True], [False, False], [False, True], [99.0, 2.0], [9.0, 4.0]) == [(3.0, 2, 6.0)]
    assert update([True, False], [False, False], [True, False], [20.0, 99.0], [8.0, 9.0]) == [(30.0, 2, 9.0)]
