"""EnvPool's rows mean what the face says, seen from the physics of its tasks."""

import os
import subprocess
import sys

import numpy as np
import pytest

from proximo.control.environments import EpisodeCounter, make_environments
from proximo.control.environments.backends.envpool import EnvPoolEnvironments
from proximo.errors import UserError

pytest.importorskip("envpool")


def pendulum_step(observation, action):
    """Reward and next observation of Pendulum-v1 after one step, from its published equations."""
    angle, speed = np.arctan2(observation[:, 1], observation[:, 0]), observation[:, 2]
    torque = np.clip(action[:, 0], -2, 2)
    reward = -(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
    speed = np.clip(speed + (15 * np.sin(angle) + 3 * torque) * 0.05, -8, 8)
    angle = angle + speed * 0.05
    return reward, np.stack([np.cos(angle), np.sin(angle), speed], axis=1)


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_every_valid_row_obeys_the_physics_up_to_the_truncated_state(backend):
    environments = make_environments("Pendulum-v1", 4, backend=backend, options={"max_episode_steps": 7})
    observation, _ = environments.reset([0, 1, 2, 3])
    rng = np.random.default_rng(0)
    truncated = 0
    for _ in range(40):
        action = rng.uniform(-2, 2, (4, 1)).astype(np.float32)
        step = environments.step(action)
        reward, reached = pendulum_step(observation.astype(np.float64), action.astype(np.float64))
        np.testing.assert_allclose(step.reward[step.valid], reward[step.valid], atol=1e-4)
        np.testing.assert_allclose(step.final_observation[step.valid], reached[step.valid], atol=1e-4)
        breaks = ~np.isclose(step.observation, reached, atol=1e-4).all(axis=1)
        assert np.array_equal(breaks, step.started)
        truncated += step.truncated.sum()
        observation = step.observation
    assert truncated >= 16
    environments.close()


def test_rows_that_report_a_reset_are_those_without_an_elapsed_step():
    environments = EnvPoolEnvironments("CartPole-v1", 8, options={"max_episode_steps": 20})
    environments.reset(range(8))
    pool, elapsed = environments._pool, []
    original = pool.recv
    pool.recv = lambda: (result := original(), elapsed.append(result[-1]["elapsed_step"]))[0]
    resets = 0
    for t in range(120):
        step = environments.step(np.full(8, t // 9 % 2))
        assert np.array_equal(step.valid, elapsed[-1] > 0)
        assert np.array_equal(step.started, ~step.valid)
        assert not step.reward[~step.valid].any()
        assert not (step.terminated | step.truncated | step.episode_over)[~step.valid].any()
        resets += (~step.valid).sum()
    assert resets > 20


def trajectory(name, seeds, index, steps=60):
    environments = make_environments(name, len(seeds), backend="envpool")
    rows = [environments.reset(seeds)[0][index]]
    wave = np.sin(np.arange(steps))
    for value in wave:
        shape = environments.action_space.shape
        action = np.full((len(seeds), *shape), value if shape else value > 0, environments.action_space.dtype)
        rows.append(environments.step(action).observation[index])
    return np.array(rows)


@pytest.mark.parametrize("name", ["CartPole-v1", "HalfCheetah-v5"])
def test_an_environment_follows_from_its_own_seed_alone(name):
    alone = trajectory(name, [7], 0)
    assert np.array_equal(alone, trajectory(name, [1, 2, 7], 2))
    assert np.array_equal(alone, trajectory(name, [2**31 + 7], 0))
    assert not np.array_equal(alone, trajectory(name, [8], 0))


def test_a_second_reset_starts_again_from_its_seeds():
    environments = make_environments("CartPole-v1", 3)
    first, _ = environments.reset([4, 5, 6])
    environments.step(np.zeros(3, np.int64))
    again, _ = environments.reset([4, 5, 6])
    assert np.array_equal(first, again)


@pytest.mark.parametrize("name", ["CheetahRun-v1", "MiniGrid-Empty-5x5-v0", "FetchPickAndPlace-v4"])
def test_nested_observations(name):
    environments = make_environments(name, 3)
    observation, _ = environments.reset([0, 1, 2])
    assert observation.keys() == environments.observation_space.spaces.keys()
    action = np.stack([np.asarray(environments.action_space.sample()) for _ in range(3)])
    for _ in range(5):
        step = environments.step(action)
        for key, space in environments.observation_space.spaces.items():
            assert step.observation[key].shape == (3, *space.shape)


def test_actions_of_any_matching_type_are_taken():
    for dtype in (np.int32, np.int64):
        environments = make_environments("CartPole-v1", 2)
        environments.reset([0, 1])
        assert environments.step(np.ones(2, dtype)).reward.tolist() == [1.0, 1.0]
    environments = make_environments("HalfCheetah-v5", 2)
    environments.reset([0, 1])
    assert environments.step(np.zeros((2, 6), np.float32)).reward.dtype == np.float64


def test_lives_and_clipped_rewards_leave_the_task_its_own_account():
    options = {"max_episode_steps": 130, "noop_max": 1}
    plain = make_environments("Breakout-v5", 4, options=options)
    lives = make_environments("Breakout-v5", 4, options={**options, "episodic_life": True, "reward_clip": True})
    lost = 0
    games = {}
    for environments in (plain, lives):
        environments.reset([0, 1, 2, 3])
        counter, rng = EpisodeCounter(4), np.random.default_rng(1)
        games[environments] = []
        for _ in range(300):
            step = environments.step(rng.integers(0, 4, 4))
            games[environments] += counter.update(step)
            assert not step.raw_reward[~step.valid].any()
            if environments is lives:
                assert set(np.unique(step.reward)) <= {-1.0, 0.0, 1.0}
                assert not (step.episode_over & ~(step.terminated | step.truncated)).any()
                lost += (step.terminated & ~step.episode_over).sum()
            else:
                assert np.array_equal(step.episode_over, step.terminated | step.truncated)
    assert lost > 8
    for ended in games.values():
        # Five lives of random play last longer than one, and at most as long as the time limit.
        assert len(ended) >= 4
        assert all(60 < episode.length <= 130 for episode in ended)


def test_raw_reward_is_what_clipping_takes_away():
    options = {"reward_clip": True, "noop_max": 1}
    environments = make_environments("MsPacman-v5", 2, options=options)
    environments.reset([0, 1])
    rng = np.random.default_rng(0)
    total = 0.0
    for _ in range(80):
        step = environments.step(rng.integers(0, 9, 2))
        assert np.array_equal(np.sign(step.raw_reward), step.reward)
        total += step.raw_reward.sum()
    assert total >= 20  # a dot is worth 10


def test_wrong_options_are_named():
    with pytest.raises(UserError, match="did you mean max_episode_steps"):
        make_environments("CartPole-v1", 1, options={"max_episode_step": 3})
    with pytest.raises(UserError, match="'seed' of CartPole-v1 is set by Proximo"):
        make_environments("CartPole-v1", 1, options={"seed": 3})
    with pytest.raises(UserError, match="cannot make CartPole-v1 with"):
        make_environments("CartPole-v1", 1, options={"max_episode_steps": "many"})
    with pytest.raises(UserError, match="several agents"):
        make_environments("IntersectionMultiAgent-v1", 1)


def test_threads_respect_the_affinity_of_the_process():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from proximo.control.environments import make_environments\n"
        "made = make_environments('CartPole-v1', 8); made.reset(range(8))\n"
        "assert made._environments._pool.config['num_threads'] == 1\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)


def test_starting_cartpole_loads_neither_torch_nor_mujoco():
    code = (
        "import sys\n"
        "from proximo.control.environments import base\n"
        "assert not {'torch', 'gymnasium', 'envpool'} & sys.modules.keys()\n"
        "from proximo.control.environments import make_environments\n"
        "make_environments('CartPole-v1', 2).reset([0, 1])\n"
        "loaded = {'torch', 'mujoco', 'gymnasium.envs.mujoco', 'jax'} & sys.modules.keys()\n"
        "assert not loaded, loaded\n"
    )
    environment = {**os.environ, "PYTHONWARNINGS": "error"}  # nor does it print a warning
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600, env=environment)


def test_a_mask_of_envpool_tells_the_illegal_actions():
    environments = make_environments("Play2048-v1", 4)
    _, mask = environments.reset([0, 1, 2, 3])
    legal = 0
    while mask.all(axis=1).any() and legal < 200:  # legal moves go on until every board forbids some move
        step = environments.step(mask.argmax(axis=1))
        assert not step.terminated.any()
        mask, legal = step.mask, legal + 1
    assert legal < 200
    assert environments.step(mask.argmin(axis=1)).terminated.all()
