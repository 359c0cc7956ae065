"""A clock that ends an episode is no end of the task: the value of a reward of 1 for ever is 1 / (1 - gamma)."""

import control_tasks
import pytest
from control_runs import running, trained, value

GAMMA = 0.9
FOR_EVER = 1 / (1 - GAMMA)
SOURCES = {
    "one environment": (control_tasks.steady, {}),
    "subprocess": (control_tasks.steady, {"backend": "subprocess"}),
    "same step": (control_tasks.steady_vector, {"options": {"mode": "same"}}),
    "next step": (control_tasks.steady_vector, {"options": {"mode": "next"}}),
    "no autoreset": (control_tasks.steady_vector, {"options": {"mode": "disabled"}}),
}
NORMALIZED = {"observations": True, "rewards": "return"}
FIRST = control_tasks.Steady().reset()[0][None]


def learnt(kind, iterations=60, **changes):
    source, settings = SOURCES[kind]
    settings = {"gamma": GAMMA, **settings, **changes}
    settings["options"] = {**settings.get("options", {}), **changes.get("options", {})}
    return trained(source, iterations, **settings)


@pytest.mark.parametrize("kind", SOURCES)
def test_the_value_looks_beyond_the_time_limit(kind):
    assert value(learnt(kind), FIRST)[0] == pytest.approx(FOR_EVER, rel=0.05)


@pytest.mark.parametrize("kind", ["same step", "next step"])
def test_a_time_limit_that_is_called_an_end_makes_the_value_wrong(kind):
    assert value(learnt(kind, options={"lies": True}), FIRST)[0] < 0.8 * FOR_EVER


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        pytest.param(changes, kind, id=f"{name}-{kind}", marks=[pytest.mark.slow] * (kind != quick))
        for name, changes, quick in [
            ("recurrent", {"network": {"memory": "gru", "memory_size": 8}}, "next step"),
            ("returns normalised", {"closed_form": False, "normalizers": NORMALIZED}, "same step"),
            ("recomputed", {"update": {"recompute_advantages": True}}, "next step"),
        ]
        for kind in ("same step", "next step")
    ],
)
def test_the_value_looks_beyond_the_time_limit_with(changes, kind):
    training = learnt(kind, **changes)
    assert value(training, FIRST)[0] == pytest.approx(FOR_EVER, rel=0.07)


@pytest.mark.parametrize("memory", ["none", "lstm"])
def test_envpool_reports_a_time_limit_in_a_step_of_its_own_and_it_is_bootstrapped(memory):
    # No pole falls within five steps: CartPole pays 1 for ever.
    network = {"memory": memory, "memory_size": 8}
    settings = {"options": {"max_episode_steps": 5}, "backend": "envpool", "gamma": 0.8, "network": network}
    with running("CartPole-v1", **settings) as training:
        metrics = [training.iterate() for _ in range(60)]
        rollout = training.collector.collect()
    assert metrics[-1]["reset_rows"] > 0
    assert set(training.recent.lengths) == {5}
    values = training.policy.values.from_units(rollout.value)[rollout.valid]
    assert values.mean().item() == pytest.approx(5.0, rel=0.1)
    assert values.min() > 4.2, "the most that five steps pay is 3.4"
