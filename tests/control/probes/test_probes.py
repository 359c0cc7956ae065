"""Questions to steps whose answers are known: made of arrays, and taken from a run."""

from dataclasses import replace

import numpy as np
import pytest

import proximo
from proximo.control.probes import actions, signals
from proximo.control.probes.answers import ask, problems
from proximo.control.probes.experience import Experience, from_updates
from proximo.runs.replay.entry import read

T, N = 400, 8


def walk(seed=0, force=1.0, lag=0, keeps=0.9):
    """A point that each action (-1 or 1) pushes, `lag` steps later; the reward is its place, episodes have 40 steps."""
    generator = np.random.default_rng(seed)
    done = generator.integers(0, 2, (T, N))
    place = np.zeros((T + 1, N))
    for t in range(T):
        pushed = 2.0 * done[t - lag] - 1.0 if t % 40 >= lag else 0.0
        place[t + 1] = 0.0 if (t + 1) % 40 == 0 else keeps * place[t] + force * pushed + 0.3 * generator.normal(size=N)
    over = np.zeros((T, N), bool)
    over[39::40] = True
    return Experience(
        observations=place[:-1, :, None],
        following=place[1:, :, None],
        actions=done[..., None].astype(float),
        rewards=place[:-1],
        terminated=np.zeros((T, N), bool),
        over=over,
        counted=np.ones((T, N), bool),
        episodes=np.broadcast_to((np.arange(T) // 40)[:, None], (T, N)),
    )


def test_a_push_is_seen_and_pays():
    told = ask(walk(), 0.9)
    # The change is -0.1 place + push + noise, of variance 0.01 · 5.7 + 1 + 0.09 where places have had time to spread.
    assert told.follows.share == pytest.approx(1 / 1.147, abs=0.05)
    assert told.something_to_gain
    assert told.alive
    assert not list(problems(told))
    assert told.late is None


def test_a_push_that_never_comes_is_named():
    told = ask(walk(force=0.0), 0.9)
    assert told.ignored
    assert not told.something_to_gain
    assert told.alive


@pytest.mark.parametrize(("lag", "keeps"), [(5, 0.9), (20, 0.9), (5, -0.9)])
def test_a_push_that_comes_late_is_named_with_its_delay(lag, keeps):
    """Also where the point jumps from side to side by itself, which is 20 times as much as a push."""
    told = ask(walk(lag=lag, keeps=keeps), 0.9)
    assert told.late is not None
    assert told.late[0] == lag
    assert [problem.name for problem in problems(told)] == ["late"]


def test_steps_of_two_episodes_make_no_pair():
    pairs = walk().pairs(3)
    assert pairs.shape == (T - 3, N)
    assert pairs[:37].all()
    assert not pairs[37:40].any()
    assert pairs.sum() == N * (T - 3 * (T // 40))
    assert (walk().before[40] == walk().observations[40]).all()
    assert (walk().before[41] == walk().observations[40]).all()


def test_a_reward_that_comes_late_is_named_with_its_delay():
    steps = walk()
    paid = np.roll(steps.rewards, 9, axis=0)
    found = actions.late(replace(steps, rewards=paid))
    assert found is not None
    assert found[0] == 9


def test_noise_is_called_so():
    noise = np.random.default_rng(3).normal(size=(T, N))
    assert ask(replace(walk(), rewards=noise), 0.9).noise
    shown = np.random.default_rng(4).normal(size=(T + 1, N, 1))
    told = ask(replace(walk(), observations=shown[:-1], following=shown[1:]), 0.9)
    assert told.blind
    assert not told.alive
    assert ask(replace(walk(), observations=np.ones((T, N, 1)), following=np.ones((T, N, 1))), 0.9).constant


def test_states_that_return_are_compared_with_themselves():
    """A ring of five cells in which one steps left or right: within a cell, the action decides; or nothing does."""
    generator = np.random.default_rng(0)
    done, cell = generator.integers(0, 2, (T, N)), np.zeros((T + 1, N), int)
    for heeded in (True, False):
        for t in range(T):
            step = done[t] if heeded else generator.integers(0, 2, N)
            cell[t + 1] = (cell[t] + 2 * step - 1) % 5
        seen = replace(
            walk(),
            observations=np.eye(5)[cell[:-1]],
            following=np.eye(5)[cell[1:]],
            actions=done[..., None].astype(float),
            rewards=(cell[1:] == 0).astype(float),
            over=np.zeros((T, N), bool),
        )
        told = ask(seen, 0.9)
        assert told.ignored is not heeded
        # The column of a cell's neighbour is decided by the action in one of two cases, where it is not 0 anyway.
        assert (told.follows.share > 0.2) is heeded


def test_rewards_ahead_are_the_sum_up_to_the_end_of_the_episode():
    steps = walk()
    total, known = actions.rewards_ahead(steps, 8, 0.5)
    for t, n in ((0, 0), (35, 3), (100, 1)):
        last = min(t + 8, (t // 40 + 1) * 40)
        assert total[t, n] == pytest.approx(sum(0.5 ** (k - t) * steps.rewards[k, n] for k in range(t, last)))
    assert known[: T - 8].all()
    assert known[T - 8 :].all()  # its last episode ends with it
    cut = replace(steps, over=np.zeros((T, N), bool))
    assert not actions.rewards_ahead(cut, 8, 0.5)[1][T - 7 :].any()


@pytest.mark.parametrize("continuous", [False, True])
def test_a_policy_that_does_not_look_is_found(continuous):
    steps, generator = walk(), np.random.default_rng(0)
    if continuous:
        done = generator.normal(size=(T, N))
        blind, looking = -0.5 * done**2, -0.5 * (done - 0.01 * steps.observations[..., 0]) ** 2
        steps = replace(steps, actions=done[..., None])
    else:
        chosen = steps.actions[..., 0] == 1
        lean = 0.01 * steps.observations[..., 0]
        blind = np.where(chosen, np.log(0.6), np.log(0.4))
        looking = np.where(chosen, lean, -lean) - np.log(2 * np.cosh(lean))
    assert not signals.policy_looks(replace(steps, log_probs=blind))
    assert signals.policy_looks(replace(steps, log_probs=looking))


def test_of_a_policy_that_tries_nothing_it_can_not_be_told_what_actions_do():
    sure = replace(walk(force=0.0), actions=np.ones((T, N, 1)), log_probs=np.full((T, N), -1e-3))
    told = ask(sure, 0.9)
    assert not told.ignored
    assert told.looks
    assert list(problems(told)) == []


def test_what_a_run_keeps_is_what_it_did(tmp_path):
    run = str(tmp_path / "run")
    proximo.train("CartPole-v1", steps=6000, run=run, progress="quiet", episodes=1, episode_limit=50)
    seen = from_updates(read(tmp_path / "run" / "replay"))
    assert seen.rewards.shape == (8 * 32, 16)
    # CartPole moves its cart by 0.02 s times its velocity in each step.
    moved = seen.observations[..., 0] + 0.02 * seen.observations[..., 1]
    np.testing.assert_allclose(moved[seen.together], seen.following[..., 0][seen.together], atol=1e-5)
    assert (seen.rewards[seen.counted] == 1.0).all()
    told = ask(seen, 0.99)
    assert told.follows.share > 0.8
    assert told.looks
