"""Environments of other libraries are taken by their methods, and what they report is what really happened in them."""

import numpy as np
import pytest
import torch
from control_runs import running
from shapes_of_others import END, LIMIT, Manual, Parallel, Puffer, RslRl, Tensors, Wrapped

import proximo
from proximo.control.environments import make_environments
from proximo.errors import UserError

SEEN = ("policy", "critic")
FINALS = {
    "isaac lab": (lambda: RslRl(torch.int64), SEEN),
    "playground": (lambda: RslRl(torch.float32), SEEN),
    "genesis": (lambda: RslRl(torch.bool), SEEN),
    "mjlab": (Manual, SEEN),
    "mjlab's wrapper": (Wrapped, SEEN),
    "maniskill": (Tensors, ()),
    "gymnasium": (lambda: Tensors("final_obs"), ()),
    "numpy": (lambda: Tensors("final_obs", np.ndarray), ()),
}


def leaf(observation):
    return observation["policy"] if isinstance(observation, dict) else observation


def steps_of(make, keys, count, cycles=3):
    """The first observation, and steps over some ends."""
    environments = make_environments(make, count, observation_keys=keys)
    first, _ = environments.reset(range(count))
    action = np.zeros((count, 2), np.float32) if environments.action_space.shape else np.zeros(count, np.int64)
    return first, [environments.step(action) for _ in range(cycles * LIMIT)]


@pytest.mark.parametrize("kind", FINALS)
def test_a_state_that_a_cut_episode_reached_is_the_one_that_is_told(kind):
    make, keys = FINALS[kind]
    first, steps = steps_of(make, keys, 4)
    assert not leaf(first).any()
    now = np.zeros(4)
    for step in steps:
        now += 1
        over = (np.arange(4) % 2 == 1) & (now == END)
        cut = now == LIMIT
        assert np.array_equal(step.terminated, over)
        assert np.array_equal(step.truncated, cut)
        assert np.array_equal(step.reward, now + 1)
        assert np.array_equal(leaf(step.final_observation)[:, 0], now)
        now[over | cut] = 0
        # Looked at after all steps: whoever keeps a buffer that was overwritten sees another number here.
        assert np.array_equal(leaf(step.observation)[:, 0], now)
        assert np.array_equal(step.started, over | cut)
        assert step.valid.all()


@pytest.mark.parametrize("make", [lambda: RslRl(final=False), Puffer], ids=["rsl_rl", "puffer"])
def test_hidden_ends_are_refused_with_the_way_to_show_them_unless_a_setting_says_what_they_are_worth(make):
    keys = () if make is Puffer else SEEN
    with pytest.raises(UserError, match=r"truncation = previous .* or drop"):
        steps_of(make, keys, 4)
    actor = {} if make is Puffer else {"observations": {"actor": ("policy",), "critic": ("critic",)}}
    with running(make, count=4, truncation="previous", **actor) as training:
        row = training.iterate()
    assert row["truncations_approximated"] > 5
    assert row["ratio_deviation"] < 1e-5


def test_rows_of_agents_that_are_away_are_not_learnt_from():
    environments = make_environments(Puffer, 4)
    environments.leave_out_finals()
    environments.reset(range(4))
    steps = [environments.step(np.zeros(4, np.int64)) for _ in range(6)]
    assert [bool(step.valid[2]) for step in steps] == [False] * 4 + [True] * 2
    assert all(step.valid[[0, 1, 3]].all() for step in steps)
    assert [float(step.observation[0, 0]) for step in steps] == [1, 2, 3, 0, 1, 2]


def test_agents_are_rows_and_one_that_is_gone_counts_for_nothing():
    _, steps = steps_of(Parallel, (), 4)
    a, b = (
        [tuple(bool(x[row]) for x in (s.valid, s.terminated, s.truncated, s.started)) for s in steps] for row in (0, 1)
    )
    on, gone, reset = (True, False, False, False), (False,) * 4, (False, False, False, True)
    assert a[:5] == [on, on, on, (True, False, True, False), reset]
    assert b[:5] == [on, on, (True, True, False, False), gone, reset]
    assert steps[3].observation[:, 0].tolist() == [4, 3, 4, 3]
    assert steps[4].observation[:, 0].tolist() == [0] * 4
    assert [float(s.reward[0]) for s in steps[:6]] == [2, 3, 4, 5, 0, 2]
    with pytest.raises(UserError, match="multiple of 2: try 2"):
        make_environments(Parallel, 3)


@pytest.mark.parametrize(("episodes", "rows"), [(1, 2), (3, 2), (5, 4)])
def test_an_evaluation_takes_whole_copies_whatever_the_number_of_its_episodes(episodes, rows, tmp_path):
    assert make_environments(Parallel, episodes, any_count=True).count == rows
    sizes = {"environments": 4, "rollout_length": 8, "update": {"minibatch_size": 32}, "network": {"hidden": [4]}}
    run = proximo.train(Parallel, steps=32, episodes=episodes, run=tmp_path, progress="quiet", **sizes)
    assert run.results["final_deterministic"] > 0
    assert proximo.evaluate(run, episodes)["final_sampled"] > 0


@pytest.mark.parametrize("make", [Tensors, Parallel, Manual, RslRl], ids=lambda make: make.__name__)
def test_they_train_with_the_first_ratio_at_one_and_count_the_ends_that_there_were(make):
    groups = {"observations": {"actor": ("policy",), "critic": ("critic",)}} if issubclass(make, RslRl) else {}
    with running(make, count=4, length=24, update={"minibatch_size": 48}, **groups) as training:
        row = training.iterate()
    assert row["ratio_deviation"] < 1e-5
    assert row["truncations_missed"] == row["truncations_faked"] == 0
    if make is not Parallel:  # two rows end after 3 steps, two are cut after 4
        assert (row["terminations"], row["truncations"]) == (16, 12)
    if groups:
        assert row["term/reward/x"] == 2


def test_random_phases_set_the_episodes_own_clocks():
    made = []
    with running(
        lambda: made.append(RslRl()) or made[-1],
        count=4,
        random_phase=LIMIT,
        observations={"actor": ("policy",)},
    ):
        clocks = made[0].episode_length_buf
    assert clocks.dtype == torch.int64
    assert clocks.any()
    assert ((clocks >= 0) & (clocks < LIMIT)).all()


class Clocked(RslRl):
    """Cut by its own clock, after 10 steps, or where Isaac Lab's direct environments are, one earlier."""

    limit = 10

    def advance(self):
        self.now += 1
        self.episode_length_buf += 1
        reached, cut = self.now.clone(), self.episode_length_buf >= self.limit
        self.now[cut], self.episode_length_buf[cut] = 0, 0
        return torch.ones(4), torch.zeros(4, dtype=torch.bool), cut, reached


class Direct(Clocked):
    limit = 9


@pytest.mark.parametrize("make", [Clocked, Direct])
def test_first_episodes_that_begin_at_a_random_step_are_in_no_return(make):
    with running(make, count=4, length=8, random_phase=10, observations={"actor": ("policy",)}) as training:
        for _ in range(6):
            training.iterate()
        assert len(training.recent.lengths) >= 12
        assert set(training.recent.lengths) == {make.limit}
        assert set(training.recent.returns) == {float(make.limit)}


def test_one_that_is_made_already_is_taken_and_left_open(tmp_path):
    puffer = Puffer()
    call = {"steps": 64, "episodes": 1, "progress": "quiet", "truncation": "drop", "update": {"minibatch_size": None}}
    run = proximo.train(puffer, run=tmp_path, **call)
    assert run.config.environments == 4
    assert not hasattr(puffer, "closed")
    assert proximo.load(run.path).act(np.zeros(1, np.float32)) in (0, 1, 2)
