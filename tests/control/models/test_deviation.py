"""The deviation of actions stays within its range, and comes back from a bound as soon as the gradient says so."""

from dataclasses import replace

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import running
from gymnasium import spaces
from torch.distributions import Independent, Normal, kl_divergence

from proximo.control.config import NetworkSettings
from proximo.control.models.noise import Noise
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError

RANGE = (-1.0, 0.5)
KINDS = ["closed form", "autograd"]


def pushed(kind, coefficient, **network):
    """A started training in which nothing but the entropy bonus moves the deviation: every reward is 1."""
    return running(
        control_tasks.probe,
        options={"number": 1, "actions": "box"},
        closed_form=kind == "closed form",
        network={"log_std_range": RANGE, "log_std": 0.0, **network},
        update={"entropy_coefficient": coefficient, "normalize_advantages": "off", "max_grad_norm": None},
        learning_rate=0.05,
        gamma=0.0,
        lam=0.0,
    )


def bonus(training, coefficient):
    training.algorithm = replace(training.algorithm, entropy_coefficient=coefficient)


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_deviation_that_was_pushed_to_its_bound_comes_back(kind, side):
    bound = RANGE[0] if side < 0 else RANGE[1]
    with pushed(kind, 5.0 * side) as training:
        assert (training.closed_form is not None) == (kind == "closed form")
        seen = [training.iterate() for _ in range(8)]
        assert training.policy.log_std.item() == bound
        assert [row["std_stuck"] for row in (seen[0], seen[-1])] == [0, 1]
        bonus(training, -5.0 * side)
        # The momentum still points outwards; after at most 1 / (1 - 0.9) = 10 steps, two iterations, it does not.
        rows = [training.iterate() for _ in range(4)]
        assert side * training.policy.log_std.item() < side * bound - 0.1
        assert rows[-1]["std_stuck"] == 0


def test_noise_of_the_last_layer_stands_where_all_its_numbers_stand_at_the_bound_and_comes_back():
    with pushed("autograd", 5.0, noise="gsde", hidden=(4,)) as training:
        rows = [training.iterate() for _ in range(8)]
        assert (training.policy.noise_numbers == RANGE[1]).all()
        assert [row["std_stuck"] for row in (rows[0], rows[-1])] == [0, 1]
        bonus(training, -5.0)
        rows = [training.iterate() for _ in range(4)]
        assert (training.policy.noise_numbers < RANGE[1] - 0.1).any()
        assert rows[-1]["std_stuck"] == 0


def test_a_checkpoint_with_a_deviation_out_of_its_range_can_still_learn():
    with pushed("closed form", 5.0) as training:
        tensors, state = training.state()
        tensors["policy/log_std"] = torch.tensor([-7.0])
        training.load(tensors, state)
        assert training.policy.log_std.item() == RANGE[0]
        training.restart()
        training.iterate()
        assert training.policy.log_std.item() > RANGE[0]


def test_a_deviation_whose_bounds_are_one_value_is_meant_to_stand():
    with pushed("closed form", 5.0, log_std_range=(0.0, 0.0)) as training:
        assert "std_stuck" not in training.iterate()
        assert training.policy.log_std.item() == 0.0


def policy_of(noise, columns=2, **network):
    """A policy for one Box, its weights all over the place."""
    settings = NetworkSettings(hidden=(8,), noise=noise, **network)
    torch.manual_seed(1)
    observations = ObservationSpec.of(spaces.Box(-1, 1, (3,), np.float32))
    policy = ControlPolicy(observations, ActionSpec.of(spaces.Box(-2, 2, (columns,), np.float32)), settings)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(torch.randn_like(parameter))
    return policy


def seen(policy, count=64):
    torch.manual_seed(2)
    return policy.step_distribution({"vector": 3.0 * torch.randn(count, 3)})


START = {"log": (-0.5, 0.3), "scalar": (-0.5, 0.3), "fixed": (-0.5, 0.3), "shared": -0.5}


@pytest.mark.parametrize("noise", START)
def test_noise_that_is_the_same_in_all_states_starts_where_it_is_told_to(noise):
    expected = torch.tensor(START[noise]).exp().expand(64, 2)
    torch.testing.assert_close(seen(policy_of(noise, log_std=START[noise])).log_std.exp(), expected)


@pytest.mark.parametrize(
    ("noise", "learnt"), [("log", 2), ("scalar", 2), ("shared", 1), ("fixed", 0), ("state", (8 + 1) * 2)]
)
def test_each_noise_learns_as_many_numbers_as_it_says(noise, learnt):
    plain = sum(p.numel() for p in policy_of("fixed").parameters())
    assert sum(p.numel() for p in policy_of(noise).parameters()) - plain == learnt


def test_noise_of_the_state_differs_between_states_within_its_bounds_and_starts_at_its_number():
    policy = policy_of("state", log_std_range=RANGE, log_std=(-0.5, 0.2))
    log_std = seen(policy).log_std
    assert log_std.std(0).min() > 0.1
    assert RANGE[0] <= log_std.min()
    assert log_std.max() <= RANGE[1]
    with torch.no_grad():
        policy.network.actor_head.weight[2:] = 0.0
        policy.network.actor_head.bias[2:] = 0.0
    torch.testing.assert_close(seen(policy).log_std, torch.tensor([-0.5, 0.2]).expand(64, 2))


def test_a_network_that_was_pushed_far_beyond_a_bound_still_has_a_slope_back():
    raw = torch.tensor([[-100.0, 100.0]], requires_grad=True)
    Noise(NetworkSettings(noise="state"), 2).log_std_of_state(raw, torch.zeros(0)).sum().backward()
    assert (raw.grad > 1e-4).all()


@pytest.mark.parametrize("noise", ["log", "scalar", "shared", "fixed", "state"])
def test_probabilities_entropy_and_divergence_are_those_of_normals(noise):
    ours, other = seen(policy_of(noise, log_std=-0.3)), seen(policy_of(noise, log_std=0.4))
    p, q = (Independent(Normal(x.mean.double(), x.log_std.double().exp()), 1) for x in (ours, other))
    action = ours.sample(torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.log_prob(action).double(), p.log_prob(action.double()), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.entropy().double(), p.entropy(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.kl(other).double(), kl_divergence(p, q), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["scalar", "shared", "fixed"])
def test_an_entropy_bonus_raises_what_is_learnt_to_the_bound_and_no_further(noise, kind):
    with pushed(kind, 5.0, noise=noise) as training:
        assert (training.closed_form is not None) == (kind == "closed form")
        rows = [training.iterate() for _ in range(10)]
    end = 0.0 if noise == "fixed" else RANGE[1]
    assert training.policy.deviations().tolist() == pytest.approx([end])
    assert rows[-1]["std"] == pytest.approx(float(np.exp(end)))
    assert ("std_stuck" in rows[-1]) == (noise != "fixed")


def test_an_entropy_bonus_raises_the_noise_of_the_state():
    with pushed("autograd", 5.0, noise="state") as training:
        rows = [training.iterate() for _ in range(10)]
    assert np.exp(0.3) < rows[-1]["std"] < np.exp(RANGE[1])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"log_std": (0.0, 3.0)}, "must lie within"),
        ({"noise": "shared", "log_std": (0.0, 0.1)}, "must be one number"),
        ({"noise": "state", "log_std": 2.0}, "not on a bound"),
    ],
)
def test_a_start_that_can_not_be_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        NetworkSettings(**settings)


def test_as_many_deviations_as_actions_are_asked_for():
    with pytest.raises(UserError, match="has 3 numbers, and the action has 2"):
        policy_of("log", log_std=(0.0, 0.1, 0.2))


@pytest.mark.parametrize("noise", ["scalar", "shared", "fixed", "state"])
def test_a_described_policy_is_built_with_the_same_noise(noise):
    policy = policy_of(noise, log_std=-0.3)
    again = ControlPolicy.build(policy.describe())
    again.load_state_dict(policy.state_dict())
    assert torch.equal(seen(again).log_std, seen(policy).log_std)
