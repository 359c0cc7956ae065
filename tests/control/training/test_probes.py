"""Environments whose values and best actions are known on paper, one for each part that may be broken."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import encoded, trained, value

from proximo.control.loading import LoadedPolicy

GAMMA = 0.5
KINDS = {
    "closed form": {},
    "autograd": {"closed_form": False},
    "shared": {"network": {"shared": True, "activation": "elu"}},
    "gru": {"network": {"memory": "gru", "memory_size": 16}},
    "lstm": {"network": {"memory": "lstm", "memory_size": 16}},
    "impala": {"options": {"view": "pixels"}, "count": 4, "learning_rate": 1e-3},
    "nature": {"options": {"view": "pixels", "size": 36}, "count": 4, "learning_rate": 1e-3},
    "impala and gru": {
        "options": {"view": "pixels"},
        "network": {"memory": "gru", "memory_size": 32},
        "count": 4,
        "learning_rate": 1e-3,  # at 3e-3 the features grow to hundreds, and the gates of the memory close for good
    },
    "normalised": {"normalizers": {"observations": True, "rewards": "return"}},
}
ITERATIONS = {"gru": 30, "lstm": 30, "impala": 20, "nature": 20, "impala and gru": 16}
VECTORS = ["closed form", pytest.param("autograd", marks=pytest.mark.slow), "shared", "normalised"]
"""All kinds meet the probes of a delayed value and of an action that depends on what is seen, which hold what the
simpler probes ask too; those say what is wrong, so one or two kinds meet them. What is shared, or has a memory, learns
by autograd too, and closed_form/test_gradient.py holds both gradients against each other."""


def annealed(source, iterations, *, learning_rate=0.01, count=8, length=16, **settings):
    """Trained with a rate that falls to 0, as the presets' do.

    Once a probe is solved its advantages are the critic's errors alone, and a large constant rate walks on these until
    the policy is lost again, on some processors and with some seeds.
    """
    schedule = {"steps": iterations * count * length, "learning_rate": f"{learning_rate} -> 0"}
    return trained(source, iterations, count=count, length=length, **schedule, **settings)


def learnt(number, kind, iterations=None, **changes):
    settings = {"gamma": GAMMA, **KINDS[kind], **changes}
    settings["options"] = {"number": number, **settings.get("options", {}), **changes.get("options", {})}
    return annealed(control_tasks.probe, iterations or ITERATIONS.get(kind, 40), **settings)


def both(training):
    """The two observations, sign -1 and sign 1."""
    options = training.config.options
    tasks = [control_tasks.Probe(**options) for _ in range(2)]
    for task, sign in zip(tasks, (-1.0, 1.0), strict=True):
        task.sign = sign
    seen = [task.observe() for task in tasks]
    if isinstance(seen[0], dict):
        return {key: np.stack([s[key] for s in seen]) for key in seen[0]}
    return np.stack(seen)


@pytest.mark.parametrize("kind", ["closed form", "normalised"])
def test_the_value_of_a_constant_is_learnt(kind):
    training = learnt(1, kind)
    assert value(training, both(training))[1] == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("kind", ["closed form", pytest.param("nature", marks=pytest.mark.slow)])
def test_a_value_that_depends_on_the_observation_is_learnt(kind):
    training = learnt(2, kind)
    assert value(training, both(training)) == pytest.approx([-1.0, 1.0], abs=0.15)


@pytest.mark.parametrize("kind", [*VECTORS, "gru", "lstm", pytest.param("impala and gru", marks=pytest.mark.slow)])
def test_a_reward_is_discounted_on_its_way_back(kind):
    training = learnt(3, kind)
    policy = training.policy
    states = encoded(policy, both(training))
    first = {name: x[:1] for name, x in states.items()}
    then = {name: x[1:] for name, x in states.items()}
    start = policy.initial_memory(1)
    memory = policy.act(first, start).memory
    values = torch.stack([policy.value(first, start), policy.value(then, memory)])
    assert policy.values.from_units(values).squeeze(1).tolist() == pytest.approx([GAMMA, 1.0], abs=0.1)


@pytest.mark.parametrize("kind", [*VECTORS, "impala"])
def test_the_better_action_is_found_for_each_observation(kind):
    training = learnt(5, kind)
    policy = training.policy
    action = policy.act(encoded(policy, both(training)), policy.initial_memory(2), deterministic=True)
    assert action.action.squeeze(1).tolist() == [0, 1]
    assert action.log_prob.exp().min() > 0.9
    assert value(training, both(training)) == pytest.approx([1.0, 1.0], abs=0.1)


@pytest.mark.parametrize(
    "kind", ["nature", *(pytest.param(x, marks=pytest.mark.slow) for x in ("closed form", "lstm"))]
)
def test_the_better_action_is_found(kind):
    training = learnt(4, kind)
    policy = training.policy
    action = policy.act(encoded(policy, both(training)), policy.initial_memory(2), deterministic=True)
    assert action.action[1].tolist() == [1]
    assert action.log_prob[1].exp() > 0.9


@pytest.mark.parametrize(
    ("view", "network"),
    [
        pytest.param("vector", {}, id="vector"),
        pytest.param("pixels", {}, id="pixels", marks=pytest.mark.slow),
        pytest.param("dict", {"memory": "gru", "memory_size": 16}, id="dict, gru"),
    ],
)
def test_the_best_action_that_the_mask_allows_is_found(view, network):
    kind = "impala" if view == "pixels" else "closed form"
    options = {"actions": "masked", "view": view}
    training = learnt(5, kind, options=options, network=network, normalizers={"observations": view != "pixels"})
    policy, observations = training.policy, both(training)
    mask = np.array([[True, True, False]] * 2)
    asked = {} if view == "dict" else {"mask": mask}
    loaded = LoadedPolicy(policy)
    assert loaded.act(observations, **asked).tolist() == [0, 1]
    loaded.seed(0)
    loaded.reset()
    sampled = {int(a) for _ in range(50) for a in loaded.act(observations, deterministic=False, **asked)}
    assert 2 not in sampled
    # A return of 5 would mean that the forbidden choice was taken.
    assert max(training.recent.returns) == 1.0
    loaded.reset()
    assert value(training, observations) == pytest.approx([1.0, 1.0], abs=0.15)


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        pytest.param(4, "closed form", marks=pytest.mark.slow),
        (5, "closed form"),
        (5, "squashed"),
        (5, "beta"),
        (5, "noise of the state"),
        (5, "gsde"),
        (5, "gru"),
    ],
)
def test_the_best_continuous_action_is_found_in_the_environments_units(number, kind):
    own = {
        "squashed": {"actions": "squashed"},
        "beta": {"actions": "beta"},
        "noise of the state": {"actions": "squashed", "noise": "state"},
        "gsde": {"noise": "gsde"},
    }
    network = own[kind] if kind in own else KINDS[kind].get("network", {})
    base = "closed form" if kind in own else kind
    options = {**KINDS[base].get("options", {}), "actions": "box"}
    # A Beta is narrow once both of its numbers have grown, which takes longer than a deviation that shrinks.
    iterations, more = (80, {"learning_rate": 0.003}) if kind == "beta" else (40, {})
    settings = {"options": options, "network": network, "normalizers": {"rewards": "scale"}, **more}
    training = learnt(number, base, iterations, **settings)
    best = {4: [4.0], 5: [1.0, 5.0]}[number]
    actions = LoadedPolicy(training.policy).act(both(training))[-len(best) :]
    assert actions.squeeze(1).tolist() == pytest.approx(best, abs=0.4)


@pytest.mark.parametrize("kind", ["none", "gru", "lstm"])
def test_what_was_seen_at_the_first_step_only_is_remembered(kind):
    network = {"memory": kind, "memory_size": 16}
    seen = annealed(control_tasks.recall, 40, network=network, options={"length": 3}, gamma=0.99)
    if kind == "none":
        assert seen.recent.mean_return < 0.75, "without memory the task can not be done"
    else:
        assert seen.recent.mean_return > 0.9


def test_both_parts_of_a_hybrid_action_are_learnt():
    training = annealed(control_tasks.hybrid, 60)
    actions = LoadedPolicy(training.policy).act(np.array([[-1.0], [1.0]], np.float32))
    assert actions["gear"].tolist() == [7, 5]
    assert actions["push"].squeeze(1).tolist() == pytest.approx([4.0, 8.0], abs=0.5)
