"""Actions that arrive late, or are held for several steps."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.control.environments import make_environments
from proximo.control.environments.backends.answers import RAW_REWARD
from proximo.errors import UserError


class Echo(gymnasium.Env):
    """Observes the step in the episode and what was done last; a reward is what was done. Bounds are -2 and 6."""

    observation_space = spaces.Box(-100, 100, (2,), np.float32)
    action_space = spaces.Box(-2, 6, (1,), np.float32)

    def __init__(self, limit=12, ends=False):
        self.limit, self.ends = limit, ends

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.length = 0, self.limit + int(self.np_random.integers(3)) * (self.limit > 12)
        return np.array([0, 0], np.float32), {}

    def step(self, action):
        self.now += 1
        over = self.now >= self.length
        seen = np.array([self.now, action[0]], np.float32)
        return seen, float(action[0]), over and self.ends, over and not self.ends, {}


def vector(mode):
    return SyncVectorEnv([lambda: Echo(13)] * 3, autoreset_mode=mode)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize("delay", [1, 3])
def test_each_action_arrives_its_steps_late_and_none_crosses_an_episode(mode, delay):
    environments = make_environments(lambda: vector(mode), 3, action_delay=delay)
    environments.reset([0, 1, 2])
    given, ends = [[] for _ in range(3)], 0
    for t in range(60):
        actions = np.array([[0.01 * t + n] for n in range(3)], np.float32)
        step = environments.step(actions)
        for n in range(3):
            if not step.valid[n]:
                given[n] = []
                continue
            given[n].append(actions[n, 0])
            now, done = step.final_observation[n]
            assert now == len(given[n])
            assert done == (given[n][-1 - delay] if now > delay else 2.0), "2 is the middle of -2 and 6"
            if step.terminated[n] or step.truncated[n]:
                given[n], ends = [], ends + 1
    assert ends > 6
    environments.close()


class Clipped(gymnasium.Wrapper):
    """Pays the sign of the reward, and says what it was, as the preprocessing of Atari does."""

    def step(self, action):
        seen, reward, terminated, truncated, info = self.env.step(action)
        return seen, float(np.sign(reward)), terminated, truncated, {**info, RAW_REWARD: reward}


def test_what_a_held_action_was_paid_before_it_was_clipped_adds_up_too():
    environments = make_environments(lambda: Clipped(Echo()), 1, action_repeat=3)
    environments.reset([0])
    step = environments.step(np.array([[5.0]], np.float32))
    assert (step.reward.tolist(), step.raw_reward.tolist()) == ([3.0], [15.0])


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_a_held_action_is_taken_so_often_and_pays_each_time(ends, backend):
    environments = make_environments(Echo, 2, backend=backend, options={"limit": 8, "ends": ends}, action_repeat=3)
    environments.reset([0, 1])
    steps = [environments.step(np.array([[a], [-a]], np.float32)) for a in (1.0, 0.5, 2.0)]
    assert [step.reward.tolist() for step in steps] == [[3.0, -3.0], [1.5, -1.5], [4.0, -4.0]]
    assert steps[1].observation[0].tolist() == [6.0, 0.5]
    assert steps[2].final_observation[0].tolist() == [8.0, 2.0]
    over = [(step.terminated | step.truncated).tolist() for step in steps]
    assert over == [[False, False], [False, False], [True, True]]
    assert steps[2].terminated.tolist() == [ends, ends]
    assert [step.task_reward.tolist() for step in steps] == [step.reward.tolist() for step in steps]
    environments.close()


def test_a_run_trains_resumes_and_evaluates_with_both(tmp_path):
    settings = {"action_repeat": 3, "action_delay": 1, "environments": 2, "rollout_length": 16, "episodes": 2}
    settings |= {"update": {"minibatch_size": 32}, "progress": "quiet", "checkpoint_every": 32}
    whole = proximo.train(Echo, run=tmp_path / "whole", steps=128, **settings)
    assert proximo.metrics(whole)[-1]["episode_length"] == 4.0
    assert proximo.evaluate(whole, 2, episode_limit=4)["unfinished_episodes"] == 0, (
        "12 of its own steps are 4 of the policy's"
    )
    part = proximo.train(Echo, run=tmp_path / "part", steps=128, stop_at=64, **settings)
    assert part.stopped
    part = proximo.train(Echo, run=tmp_path / "part", steps=128, **settings)
    weights = [torch.cat([p.reshape(-1) for p in proximo.load(run).policy.parameters()]) for run in (whole, part)]
    assert torch.equal(*weights)
    told = proximo.export(whole, "numpy", environment=Echo, observations=20).contract
    assert told["trained_with"] == {"action_repeat": 3, "action_delay": 1}


@pytest.mark.parametrize(
    ("source", "settings", "said"),
    [
        ("CartPole-v1", {"action_delay": 1, "backend": "gymnasium"}, "needs actions that are numbers"),
        ("CartPole-v1", {"action_repeat": 2, "backend": "envpool"}, "not for EnvPool"),
        (lambda: vector(AutoresetMode.NEXT_STEP), {"action_repeat": 2}, "returned a whole SyncVectorEnv"),
        (Echo(), {"action_repeat": 2}, "is made already"),
    ],
)
def test_where_it_can_not_be_it_is_refused(source, settings, said):
    with pytest.raises(UserError, match=said):
        make_environments(source, 1, **settings)
