"""Atari through Gymnasium is prepared as EnvPool prepares it (needs the extra `atari`)."""

import importlib.util

import numpy as np
import pytest

from proximo.control.environments import EpisodeCounter, make_environments
from proximo.errors import UserError

HAS_ALE = importlib.util.find_spec("ale_py") is not None and importlib.util.find_spec("cv2") is not None
needs_ale = pytest.mark.skipif(not HAS_ALE, reason="the extra `atari` is not installed")


@pytest.mark.skipif(HAS_ALE, reason="ale-py is installed")
def test_without_ale_the_extra_is_named():
    with pytest.raises(UserError, match=r"pip install proximo\[atari\]"):
        make_environments("ALE/Pong-v5", 1)


@needs_ale
def test_frames_are_those_of_envpool():
    environments = make_environments("ALE/Pong-v5", 2)
    observation, _ = environments.reset([0, 1])
    assert observation.shape == (2, 4, 84, 84)
    assert observation.dtype == np.uint8


@needs_ale
def test_lives_and_clipped_rewards_leave_the_game_its_own_account():
    options = {"episodic_life": True, "reward_clip": True}
    environments = make_environments("ALE/Breakout-v5", 2, options=options)
    environments.reset([0, 1])
    counter, rng = EpisodeCounter(2), np.random.default_rng(0)
    lost, games = 0, []
    for _ in range(700):
        step = environments.step(rng.integers(0, 4, 2))
        games += counter.update(step)
        lost += (step.terminated & ~step.episode_over).sum()
        assert np.array_equal(np.sign(step.raw_reward), step.reward)
        assert not (step.episode_over & ~(step.terminated | step.truncated)).any()
    assert len(games) >= 2
    assert lost >= 4 * len(games)  # five lives, of which the last ends the game


@needs_ale
def test_the_time_limit_counts_steps_and_truncates():
    environments = make_environments("ALE/Pong-v5", 1, options={"max_episode_steps": 50})
    environments.reset([0])
    counter = EpisodeCounter(1)
    ended, truncated = [], 0
    for _ in range(120):
        step = environments.step(np.zeros(1, np.int64))
        truncated += step.truncated.sum()
        ended += counter.update(step)
    assert truncated == len(ended) >= 2
    assert all(episode.length <= 50 for episode in ended)
