"""First episodes that are cut at random steps: environments end apart, returns do not notice, and a run goes on."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import running, trained, weights

from proximo.control.environments.episodes import first_episode
from proximo.errors import UserError

LIMIT = 20
PLAN = {"options": {"limit": LIMIT}, "count": 8, "length": 10, "normalizers": {"rewards": "scale"}}


def ends(training, rollouts):
    """When episodes end: `[T, N]`, reset rows left out."""
    training.restart()
    training.recent.lengths.clear()
    training.recent.returns.clear()
    seen = []
    for _ in range(rollouts):
        rollout = training.collector.collect()
        training._count(rollout)
        seen.append(rollout.truncated[rollout.valid.all(1)])
    return np.concatenate(seen)


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_environments_end_apart_and_episodes_are_whole(backend):
    with running(control_tasks.steady, **{**PLAN, "count": 4}, backend=backend, random_phase=LIMIT) as training:
        when = ends(training, 8)
        firsts = when.argmax(0) + 1
        assert len(set(firsts)) > 1
        assert firsts.min() >= 1
        assert firsts.max() <= LIMIT
        # A cut one is no episode: it is in no return and no length.
        assert set(training.recent.lengths) == {LIMIT}
        assert set(training.recent.returns) == {float(LIMIT)}
        assert len(training.recent.lengths) == when.sum() - 4


def test_without_it_they_end_together():
    with running(control_tasks.steady, **PLAN) as training:
        assert set(ends(training, 6).sum(1)) == {0, 8}


def test_steps_are_drawn_evenly_and_follow_from_the_seed():
    drawn = [first_episode(seed, 5) for seed in range(2000)]
    assert np.bincount(drawn, minlength=6)[1:] == pytest.approx([400] * 5, abs=80)
    assert drawn[:50] == [first_episode(seed, 5) for seed in range(50)]
    assert (first_episode(None, 5), first_episode(3, 0)) == (0, 0)


def test_a_run_that_goes_on_is_the_run_that_never_stopped():
    plan = {**PLAN, "random_phase": LIMIT}
    whole = trained(control_tasks.steady, 6, **plan)
    with running(control_tasks.steady, **plan) as first:
        for _ in range(3):
            first.iterate()
        state = first.state()
    with running(control_tasks.steady, **plan) as second:
        second.load(*state)
        assert second.bring_back() == []
        for _ in range(3):
            second.iterate()
    assert torch.equal(weights(second), weights(whole))
    assert (second.recent.returns, second.recent.lengths) == (whole.recent.returns, whole.recent.lengths)


@pytest.mark.parametrize("source", ["CartPole-v1", control_tasks.steady_vector])
def test_who_can_not_be_told_so_is_named(source):
    backend = "envpool" if isinstance(source, str) else "auto"
    with pytest.raises(UserError, match=r"random_phase needs .* stepped one by one.*backend gymnasium"):
        trained(source, 1, backend=backend, random_phase=10)


def test_a_negative_one_is_refused():
    with pytest.raises(ValueError, match="random_phase = -1"):
        trained(control_tasks.steady, 1, random_phase=-1)
