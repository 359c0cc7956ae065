"""Observations far from 0 keep their digits: the mean is taken off in float64, before they are cut to float32."""

import control_tasks
import gymnasium
import numpy as np
import pytest
import torch
from control_runs import running, trained, weights
from gymnasium import spaces

from proximo.control.config import NetworkSettings
from proximo.control.loading import LoadedPolicy
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.observations import ObservationSpec


class Clock(gymnasium.Env):
    """One step: a time of 1.7e9 seconds and more, of which half a second tells the right action; in float64."""

    action_space = spaces.Discrete(2)

    def __init__(self, offset=1.7e9, kind="box"):
        self.offset, self.kind = offset, kind
        box = spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.observation_space = spaces.Dict({"lamp": spaces.Discrete(2), "time": box}) if kind == "dict" else box

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.sign = self.np_random.choice([-1.0, 1.0])
        return self.look(), {}

    def step(self, action):
        return self.look(), float(action == (self.sign > 0)), True, False, {}

    def look(self):
        seen = np.array([self.offset + 0.5 * self.sign, -3.0 * self.sign])
        seen[1] = 0.0  # nothing else tells it
        return {"lamp": 0, "time": seen} if self.kind == "dict" else seen


def clock(**options):
    return Clock(**options)


PLAN = {"normalizers": {"observations": True, "rewards": "return"}, "gamma": 0.5}


KINDS = ("closed form", "autograd", "dict", "gru")


@pytest.mark.parametrize(
    ("kind", "offset"), [("closed form", 0.0), ("closed form", 1e6), *((kind, 1.7e9) for kind in KINDS)]
)
def test_what_hides_behind_the_eighth_digit_is_learnt(kind, offset):
    options = {"offset": offset, "kind": "dict" if kind == "dict" else "box"}
    network = {"memory": "gru", "memory_size": 8} if kind == "gru" else {}
    training = trained(clock, 25, options=options, network=network, closed_form=kind == "closed form", **PLAN)
    assert training.recent.mean_return > 0.9
    task = Clock(**options)
    policy = LoadedPolicy(training.policy)
    for sign, right in ((-1.0, 0), (1.0, 1)):
        task.sign = sign
        policy.reset()
        assert policy.act(task.look()) == right


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("offset", [1e3, 1e6, 1e8, 1.7e9])
def test_the_networks_see_what_numpy_makes_of_the_observations(offset, by_hand):
    x = offset + np.random.default_rng(0).standard_normal((4096, 1))
    space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    seen = []
    with running(lambda: Clock(), normalizers={"observations": True}, closed_form=by_hand) as training:
        policy = ControlPolicy(
            ObservationSpec.of(space), training.policy.actions, NetworkSettings(hidden=()), normalize_observations=True
        )
    encoded = policy.observations.encode(x, exact=True)["vector"]
    assert encoded.dtype == np.float64
    policy.normalizer.moments.absorb(torch.from_numpy(encoded))
    features = policy.network.features
    policy.network.features = lambda inputs: seen.append(inputs["vector"]) or features(inputs)
    policy.value({"vector": torch.from_numpy(encoded)})
    want = ((x - x.mean()) / x.std()).clip(-10, 10)
    assert seen[0].dtype == torch.float32
    assert np.abs(seen[0].numpy() - want).max() < 2e-3


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.int16, np.bool_])
def test_only_what_float32_has_no_room_for_is_kept_in_float64(dtype):
    spec = ObservationSpec.of(spaces.Box(-np.inf, np.inf, (3,), np.float64))
    x = np.ones((4, 3), dtype)
    assert spec.encode(x)["vector"].dtype == np.float32
    wide = dtype in (np.float64, np.int64)
    assert spec.encode(x, exact=True)["vector"].dtype == (np.float64 if wide else np.float32)


@pytest.mark.parametrize("offset", [0.0, 1.7e9])
def test_a_run_that_goes_on_sees_as_many_digits(offset):
    plan = {**PLAN, "options": {"offset": offset}, "normalizers": {"observations": True}}
    whole = trained(clock, 6, **plan)
    with running(clock, **plan) as first:
        for _ in range(3):
            first.iterate()
        assert first.collector.exact == (offset > 0)
        assert first.collector.inputs["vector"].dtype == (torch.float64 if offset else torch.float32)
        state = first.state()
    with running(clock, **plan) as second:
        second.load(*state)
        assert second.bring_back() == []
        for _ in range(3):
            second.iterate()
        assert torch.equal(weights(second), weights(whole))


def test_an_ordinary_run_is_the_same_as_ever():
    """Rollouts of an observation near 0 are float32, and nothing is computed in another type."""
    with running(control_tasks.everything, normalizers={"observations": True}) as training:
        row = training.iterate()
        assert not training.collector.exact
        assert training.collector.inputs["vector"].dtype == torch.float32
    assert row["ratio_deviation"] < 1e-4
