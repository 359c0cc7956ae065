"""The explained variance over a window of rollouts: that of all their samples together, and steady over an episode."""

import math

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import running, trained

from proximo.control.training.critic_window import CriticWindow


def rollouts(count, *, offset=0.0, samples=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for i in range(count):
        returns = offset + 3.0 * i + torch.randn(samples, generator=generator)
        yield returns + 0.5 * torch.randn(samples, generator=generator) - 0.2, returns


@pytest.mark.parametrize("kept", [1, 3, 5, 100])
def test_it_is_that_of_all_samples_of_the_window(kept):
    window, seen = CriticWindow(), list(rollouts(5))
    for values, returns in seen:
        padded = [torch.cat([x, torch.tensor([math.nan, 1e9])]) for x in (values, returns)]
        window.add(*padded, torch.cat([torch.ones(len(values)), torch.zeros(2)]), kept)
    values, returns = (np.concatenate([pair[i].double().numpy() for pair in seen[-kept:]]) for i in (0, 1))
    told = window.measured()
    assert told["explained_variance"] == pytest.approx(1 - np.var(returns - values) / np.var(returns), rel=1e-6)
    assert told["critic_error"] == pytest.approx(np.sqrt(np.mean((returns - values) ** 2)) / np.std(returns), rel=1e-6)


def test_returns_that_do_not_vary_have_no_answer():
    window = CriticWindow()
    assert math.isnan(window.measured()["explained_variance"])
    window.add(torch.zeros(9), torch.full((9,), 100.0), torch.ones(9), 3)
    assert all(math.isnan(x) for x in window.measured().values())


class Slope(control_tasks.Steady):
    """Pays its step's number / limit in an episode of `limit` steps, and shows it: returns differ between phases."""

    def reset(self, *, seed=None, options=None):
        return 0.0 * super().reset(seed=seed)[0], {}

    def step(self, action):
        self.now += 1
        return np.array([self.now / self.limit], np.float32), self.now / self.limit, False, self.now == self.limit, {}


def slope(**options):
    return Slope(**options)


def test_it_does_not_swing_with_the_phase_of_environments_that_are_cut_together():
    """Four rollouts to an episode, all environments at one step: within a rollout, returns hardly differ."""
    plan = {"options": {"limit": 64}, "length": 16, "count": 4, "gamma": 0.5, "learning_rate": 3e-3}
    with running(slope, **plan) as training:
        rows = [training.iterate() for _ in range(40)]
        assert training.progress.longest == 64
    pooled = np.array([row["explained_variance"] for row in rows[20:]])
    returns = np.array([row["return_std"] for row in rows[20:]])
    assert returns.max() < 0.3, "of one rollout; over an episode they deviate by 0.5"
    assert pooled.min() > 0.9
    assert pooled.max() - pooled.min() < 0.05
    errors = np.array([row["critic_error"] for row in rows[20:]])
    np.testing.assert_array_less(np.abs(errors), np.sqrt(1 - pooled) + 0.2)


@pytest.mark.parametrize("rewards", ["off", "return"])
def test_a_window_goes_on_where_the_run_was_stopped(rewards):
    plan = {"options": {"limit": 40}, "length": 16, "count": 2, "normalizers": {"rewards": rewards}}
    whole = trained(slope, 7, **plan)
    with running(slope, **plan) as first:
        for _ in range(5):
            first.iterate()
        state = first.state()
    with running(slope, **plan) as second:
        second.load(*state)
        second.bring_back()
        for _ in range(2):
            second.iterate()
        assert second.critic.state() == whole.critic.state()
        assert len(second.critic.state()) == 3
