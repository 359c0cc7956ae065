"""Functional environments of JAX are taken by their methods, and the states that cut episodes reached are known."""

import sys

import numpy as np
import pytest
import torch
from control_runs import running, weights
from functional_shapes import END, JAX, LIMIT, AutoReset, Batched, Functional

from proximo.control.environments import make_environments

KEYS = ("state", "privileged_state")
SHAPES = {
    "single": Functional,
    "with a limit": lambda: Batched(Functional()),
    "resets by itself": lambda: AutoReset(Batched(Functional())),
}


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", JAX)


@pytest.mark.parametrize("kind", SHAPES)
def test_the_state_that_a_cut_episode_reached_is_told_and_a_new_one_has_a_new_key(kind):
    environments = make_environments(SHAPES[kind], 4, observation_keys=KEYS)
    assert environments.count == 4
    first, mask = environments.reset(range(4))
    assert mask is None
    assert not first["state"].any()
    now, keys, steps = np.zeros(4), list[float](), []
    for _ in range(3 * LIMIT):
        steps.append((environments.step(np.full((4, 2), 0.5)), now := now + 1))
        step = steps[-1][0]
        over, cut = (np.arange(4) % 2 == 1) & (now == END), now == LIMIT
        assert np.array_equal(step.terminated, over)
        assert np.array_equal(step.truncated, cut)
        assert np.array_equal(step.reward, now + 1)
        assert np.array_equal(step.final_observation["state"][cut, 0], now[cut])
        assert np.array_equal(step.said["term/x"], 2 * now)
        now = np.where(over | cut, 0, now)
        assert np.array_equal(step.observation["state"][:, 0], now)
        assert np.array_equal(step.started, over | cut)
        keys += step.observation["privileged_state"][over | cut, 1].tolist()
    assert len(set(keys)) > 3, "each episode of a copy begins with its own key"


def test_copies_follow_from_their_seeds():
    environments = make_environments(Functional, 2, observation_keys=KEYS)
    first, _ = environments.reset([7, 8])
    again, _ = environments.reset([7, 8])
    assert np.array_equal(first["privileged_state"], again["privileged_state"])


@pytest.mark.parametrize("kind", SHAPES)
def test_they_train_with_the_first_ratio_at_one_and_count_the_ends_that_there_were(kind):
    groups = {"actor": ("state",), "critic": KEYS}
    settings = {"count": 4, "length": 24, "update": {"minibatch_size": 48}, "observations": groups}
    with running(SHAPES[kind], **settings) as training:
        row = training.iterate()
        seeds = np.array(training._seeds(0))
    odd = int((seeds % 2).sum())
    assert row["ratio_deviation"] < 1e-5
    assert (row["terminations"], row["truncations"]) == (8 * odd, 6 * (4 - odd))
    assert row["truncations_missed"] == row["truncations_faked"] == 0


def test_what_is_learnt_by_way_of_dlpack_is_what_is_learnt_by_way_of_numpy(monkeypatch):
    settings = {
        "count": 4,
        "length": 24,
        "update": {"minibatch_size": 48},
        "observations": {"actor": ("state",), "critic": KEYS},
        "network": {"activation": "silu"},  # of which there is no closed form, which takes NumPy
    }
    learnt = []
    for there in (True, False):
        with monkeypatch.context() as patch:
            if not there:
                patch.setattr("proximo.control.training.training.stays_on_device", lambda policy: False)
            with running(lambda: Batched(Functional()), **settings) as training:
                assert (type(training.collector).__name__ == "TensorCollector") == there
                rows = [training.iterate() for _ in range(2)]
            learnt.append((weights(training), [row["clipped_actions"] for row in rows]))
    assert torch.equal(learnt[0][0], learnt[1][0])
    assert learnt[0][1] == pytest.approx(learnt[1][1])
