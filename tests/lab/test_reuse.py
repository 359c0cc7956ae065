"""Runs in numbers, and what is said where the off-policy reference is not installed."""

import sys

import gymnasium
import pytest

from proximo.errors import UserError
from proximo.lab.experiment import run
from proximo.lab.experiments.reuse import CART, LANDER, POINTS, Reuse, in_numbers
from proximo.lab.off_policy import dqn_episodes


def test_a_run_that_climbs_from_nothing_to_everything_scores_a_half():
    steps = 1000 * POINTS
    episodes = [(1000 * i + 500, 0.1 * i, 500.0 * i / (POINTS - 1)) for i in range(POINTS)]
    found = in_numbers(CART, steps, episodes)
    assert found["score"] == pytest.approx(0.5)
    assert len(found["curve"]) == POINTS
    assert found["seconds_used"] == pytest.approx(0.1 * (POINTS - 1))


def test_where_no_episode_ends_the_last_one_stands():
    found = in_numbers(LANDER, 100 * POINTS, [(50, 1.0, -200.0), (50 + 100 * (POINTS - 1), 2.0, 250.0)])
    assert [value for *_, value in found["curve"]] == [-200.0] * (POINTS - 1) + [250.0]
    assert found["score"] == pytest.approx(1 / POINTS)
    assert in_numbers(CART, 100, [])["score"] == 0.0
    assert in_numbers(CART, 100, [(163, 1.0, 250.0)])["score"] == pytest.approx(0.5), "a rollout that goes on a little"


def test_dqn_notes_every_episode_it_ends():
    pytest.importorskip("stable_baselines3")
    episodes = dqn_episodes(CART, 0, 600)
    assert episodes == dqn_episodes_by_length(episodes), "CartPole pays 1 for a step, so returns are lengths"


def dqn_episodes_by_length(episodes):
    before = [0, *(step for step, *_ in episodes)]
    return [(step, spent, float(step - last)) for (step, spent, _), last in zip(episodes, before, strict=False)]


def test_what_is_not_installed_is_named_with_its_command_before_anything_is_measured(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(UserError, match=r"DQN needs stable-baselines3: `pip install '\.\[lab\]'`"):
        run(Reuse(quick=True), tmp_path, 2, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_a_task_that_is_not_installed_is_named_with_its_command(monkeypatch, tmp_path):
    pytest.importorskip("stable_baselines3")
    known = gymnasium.make

    def missing(task):
        if task == LANDER:
            raise gymnasium.error.DependencyNotInstalled("Box2D is not installed")
        return known(task)

    monkeypatch.setattr(gymnasium, "make", missing)
    with pytest.raises(UserError, match=r"LunarLander-v3 needs Box2D: `pip install '\.\[lab,box2d\]'`"):
        run(Reuse(), tmp_path, 2, lambda _: None)
    assert not list(tmp_path.iterdir())


def test_the_quick_form_needs_no_box2d():
    assert not [arm for arm in Reuse(quick=True).arms() if LANDER in arm]
    assert [arm for arm in Reuse().arms() if LANDER in arm]
