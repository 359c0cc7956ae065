"""Whether an action does something, asked with other draws of the same policy: level, power, whose draws."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import proximo
from proximo.control.probes import actions
from proximo.control.probes.answers import ask
from proximo.control.probes.experience import from_updates
from proximo.control.probes.policies import Again, drawn_again
from proximo.runs.replay.entry import read

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from doctor_chance import unmoved

SEEDS = 30


@pytest.mark.parametrize("continuous", [False, True])
def test_where_actions_do_nothing_chance_is_called_chance(continuous):
    """p is below 0.1 in at most a tenth of the seeds (no more than 8 of 30, but for 2 in 1,000), and nothing counts."""
    steps = [unmoved(seed, continuous=continuous, steps=80) for seed in range(SEEDS)]
    follows = [actions.on_what_follows(each) for each in steps]
    returns = [actions.on_returns(each, 0.99) for each in steps]
    assert sum(each.p < 0.1 for each in follows) <= 8
    assert sum(each.p < 0.1 for each in returns) <= 8
    assert not any(each.clear() for each in follows + returns)


def test_a_regression_that_does_not_know_the_policy_is_fooled_by_such_steps():
    """Else the test above would hold of anything."""
    steps = [unmoved(seed, continuous=True) for seed in range(4)]
    assert any(actions.on_returns(replace(each, again=None), 0.99).clear() for each in steps)
    assert not any(actions.on_returns(each, 0.99).clear() for each in steps)


@pytest.mark.parametrize("late", [0, 20])
def test_a_small_push_among_such_steps_is_found(late):
    """It pays as much as the reward's own chance, at once or 20 steps later: 1 of 2 · 8 or 2 · 32 parts of a return."""
    steps = unmoved(0, continuous=False, steps=750)
    push = steps.actions[..., 0] - np.mean([steps.again(i)[..., 0] for i in range(100)], 0)
    paid = np.random.default_rng(0).normal(size=push.shape)
    paid[late:] += push[: len(push) - late] / push.std()
    found = actions.on_returns(replace(steps, rewards=paid), 1.0)
    assert found.clear()
    # Regression on slow observations follows the sums of the rewards, and takes a part of what is looked for with it.
    expected = 1 / 64 if late else 1 / 16
    assert 0.2 * expected < found.share < 1.3 * expected


@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_a_policy_that_hardly_tries_rules_nothing_out(noise):
    """What its noise explains of nothing is nothing; of all that it does, the noise is a small part."""
    steps = unmoved(0, continuous=True, steps=900)
    lean = np.clip(steps.observations[..., :1], -0.5, 0.5)

    def draw(number):
        return lean + noise * np.random.default_rng(number).normal(size=lean.shape)

    told = ask(replace(steps, actions=draw(10**6), again=Again(draw)), 0.99)
    assert told.ignored is (noise == 1.0)


@pytest.fixture(scope="module", params=["none", "gru"])
def kept(request, tmp_path_factory):
    """Updates of a short run, with and without memory."""
    run = tmp_path_factory.mktemp("runs") / "run"
    settings = {} if request.param == "none" else {"network": {"memory": "gru"}}
    proximo.train("CartPole-v1", steps=3000, run=str(run), progress="quiet", episodes=1, episode_limit=50, **settings)
    return read(run / "replay")


def test_what_is_drawn_again_is_as_likely_as_what_was_done(kept):
    """The taken action returns as often as its own probability says."""
    seen = from_updates(kept)
    drawn = np.stack([seen.again(i) for i in range(200)])
    since = seen.again.since
    assert drawn.shape[1:] == seen.actions[since:].shape
    often = (drawn == seen.actions[since:]).all(-1).mean(0)
    likely = np.exp(seen.log_probs[since:])
    # Each share of 200 has a variance of p (1 - p) / 200, so the mean of the squared errors is known to a few percent.
    assert ((often - likely) ** 2).mean() == pytest.approx((likely * (1 - likely)).mean() / 200, rel=0.1)
    assert actions.on_what_follows(seen).clear(0.1)


def test_a_policy_that_is_not_the_one_that_acted_draws_nothing(kept):
    entry = kept.entries[-1]
    wrong = replace(entry, before=replace(entry.before, weights=entry.before.weights + 0.1))
    assert drawn_again(replace(kept, entries=[wrong]), 1000) is None
    assert drawn_again(replace(kept, entries=[entry]), 1000) is not None
    own = {**kept.run, "policy": {**kept.run["policy"], "network": {"custom": "no_such_module:Net"}}}
    assert drawn_again(replace(kept, run=own), 1000) is None
