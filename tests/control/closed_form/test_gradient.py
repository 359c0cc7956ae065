"""The gradient derived by hand is autograd's, entry by entry, in float64."""

from itertools import product

import numpy as np
import pytest
import torch
from derived import NUMBERS, RANGE, SAMPLES, agree, batch_of, both, policy_of
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.control.closed_form.gradient import ClosedForm, supports
from proximo.control.closed_form.heads import CategoricalHead
from proximo.control.config import NetworkSettings
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.objectives import Objective
from proximo.core.updates.exact_kl import NAME, with_old
from proximo.core.updates.optimizer import FlatAdam

HEADS = ["gaussian", "categorical", "masked"]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("zeros", [True, False])
def test_the_exact_divergence_by_hand_is_that_of_the_distributions(head, zeros):
    before, now = policy_of(head, seed=1), policy_of(head, seed=2)
    now.normalizer.load_state_dict(before.normalizer.state_dict())
    batch = batch_of(now, masked=head == "masked", zeros=zeros)
    (_, told), (_, tells) = both(now, with_old(before.evaluate, batch, 3), Objective(0.2))
    with torch.no_grad():
        divergence = before.look(batch.inputs)[0].kl(now.look(batch.inputs)[0])
    expected = float((divergence * batch.weight).sum() / batch.weight.sum())
    assert expected > 0.01
    assert (told[NAME], tells[NAME]) == (pytest.approx(expected), pytest.approx(expected))


@pytest.mark.parametrize("noise", ["scalar", "shared", "fixed"])
def test_the_gradient_is_autograds_for_every_noise_that_is_the_same_in_all_states(noise):
    for start in RANGE[0], 0.1, 0.9:  # at a bound, between, beyond
        policy = policy_of("gaussian", noise=noise)
        with torch.no_grad():
            policy.noise_numbers.copy_(torch.tensor(start).exp() if noise == "scalar" else torch.tensor(start))
        agree(policy, batch_of(policy), Objective(0.2, entropy_coefficient=0.3))


def test_noise_of_the_state_takes_autograd():
    assert not supports(policy_of("gaussian", noise="state"))


@pytest.mark.parametrize("hidden", [(), (8,), (16, 8)], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
@pytest.mark.parametrize("head", HEADS)
def test_the_gradient_is_autograds_for_every_network(head, activation, hidden):
    policy = policy_of(head, activation=activation, hidden=hidden)
    objective = Objective(clip=0.2, value_coefficient=0.7, entropy_coefficient=0.03)
    agree(policy, batch_of(policy, masked=head == "masked"), objective)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(
    ("clip", "value_clip", "dual_clip", "entropy"), product([None, 0.15], [None, 0.3], [None, 1.2], [0.0, 0.5])
)
def test_the_gradient_is_autograds_for_every_objective(head, clip, value_clip, dual_clip, entropy):
    policy = policy_of(head)
    objective = Objective(
        clip, value_coefficient=0.5, entropy_coefficient=entropy, value_clip=value_clip, dual_clip=dual_clip
    )
    agree(policy, batch_of(policy, masked=head == "masked"), objective)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    head=st.sampled_from(HEADS),
    activation=st.sampled_from(["tanh", "relu", "elu"]),
    hidden=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    normalised=st.booleans(),
    zeros=st.booleans(),
    log_stds=st.lists(st.sampled_from([*RANGE, -0.3, -2.0, 0.7]), min_size=5, max_size=5),
    clip=st.none() | st.floats(0.0, 0.5),
    value_clip=st.none() | st.floats(0.01, 1.0),
    dual_clip=st.none() | st.floats(1.01, 3.0),
    coefficients=st.tuples(st.floats(0.1, 2.0), st.floats(0.0, 1.0)),
    seed=st.integers(0, 10**6),
)
def test_the_gradient_is_autograds(
    head, activation, hidden, normalised, zeros, log_stds, clip, value_clip, dual_clip, coefficients, seed
):
    policy = policy_of(head, activation=activation, hidden=hidden, normalised=normalised, log_stds=log_stds, seed=seed)
    objective = Objective(clip, *coefficients, value_clip, dual_clip)
    batch = batch_of(policy, seed=seed, masked=head == "masked", zeros=zeros)
    (expected, told), (gradient, tells) = both(policy, batch, objective)
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert tells == pytest.approx(told, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("normalised", [True, False])
def test_acting_by_hand_is_acting(head, normalised):
    policy = policy_of(head, normalised=normalised)
    FlatAdam(policy.parameters_by_layer(), 0.0)
    closed = ClosedForm(policy)
    batch = batch_of(policy, masked=head == "masked")
    by_hand = closed.act(batch.inputs, generator=torch.Generator().manual_seed(3))
    by_torch = policy.act(batch.inputs, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(by_hand.action, by_torch.action.double(), rtol=1e-12, atol=1e-12)
    evaluation = policy.evaluate(batch.replace(action=by_hand.action))
    assert by_hand.log_prob is by_hand.value is None, "both are asked for after a whole rollout"
    for actor in (closed, policy):
        log_prob = actor.log_prob(by_hand.output, by_hand.action)
        torch.testing.assert_close(log_prob, evaluation.log_prob.detach(), rtol=1e-9, atol=1e-9)
        rollout = actor.log_prob(by_hand.output.unflatten(0, (2, -1)), by_hand.action.unflatten(0, (2, -1)))
        torch.testing.assert_close(rollout.flatten(), log_prob, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(closed.value(batch.inputs), evaluation.value.detach(), rtol=1e-9, atol=1e-9)
    if head == "masked":
        chosen = batch.inputs["mask"].gather(1, by_hand.action.long())
        assert chosen.all()


def test_a_gradient_is_added_to_what_is_there():
    policy = policy_of("gaussian")
    batch, objective = batch_of(policy), Objective()
    optimizer = FlatAdam(policy.parameters_by_layer(), 0.0)
    closed = ClosedForm(policy)
    closed.gradient(batch, objective)
    once = optimizer.gradient.clone()
    closed.gradient(batch, objective)
    torch.testing.assert_close(optimizer.gradient, 2 * once, rtol=1e-12, atol=1e-12)
    optimizer.zero_grad()
    closed.gradient(batch, objective)
    torch.testing.assert_close(optimizer.gradient, once, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("space", "changes"),
    [
        (spaces.MultiDiscrete([2, 3]), {}),
        (spaces.MultiBinary(3), {}),
        (spaces.Tuple((spaces.Discrete(2), spaces.Box(-1, 1, (1,)))), {}),
        (spaces.Box(-1, 1, (2,)), {"actions": "squashed"}),
        (spaces.Discrete(2), {"shared": True}),
        (spaces.Discrete(2), {"activation": "silu"}),
        (spaces.Discrete(2), {"memory": "gru"}),
    ],
)
def test_what_has_no_closed_form_is_left_to_autograd(space, changes):
    network = NetworkSettings(**changes)
    observations = ObservationSpec.of(spaces.Box(-1, 1, (NUMBERS,), np.float32))
    policy = ControlPolicy(observations, ActionSpec.of(space, network.actions == "squashed"), network)
    assert not supports(policy)
    with pytest.raises(ValueError, match="autograd"):
        ClosedForm(policy)


def test_a_hundred_thousand_choices_keep_their_digits():
    """Added up one after the other in float32 they would not: the first ratio would be 1.001 instead of 1."""
    logits = np.random.default_rng(0).normal(size=(100_000, 4)).astype(np.float32)
    ours = CategoricalHead(None)._log_probs(logits.copy())
    expected = torch.log_softmax(torch.from_numpy(logits).double(), 0).numpy()
    assert np.abs(ours - expected).max() < 1e-5


@pytest.mark.parametrize("hidden", [(), (8,), (6, 8)])
@pytest.mark.parametrize("own", [NUMBERS, 9])
def test_the_gradient_is_autograds_where_the_critic_sees_something_else(own, hidden):
    torch.manual_seed(own)
    seen, hers = (ObservationSpec.of(spaces.Box(-1, 1, (n,), np.float32)) for n in (NUMBERS, own))
    settings = NetworkSettings(hidden=hidden, log_std_range=RANGE)
    space = ActionSpec.of(spaces.Box(-2, 3, (5,), np.float32))
    policy = ControlPolicy(seen, space, settings, normalize_observations=True, clip=1.5, critic_observations=hers)
    policy.double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    for normalizer in policy.normalizers.values():
        normalizer.moments.absorb(2.0 * torch.randn(50, len(normalizer.moments.mean)) + 0.7)
    view = torch.randn(SAMPLES, own, dtype=torch.float64)
    batch = batch_of(policy, also={"critic.vector": view})
    agree(policy, batch, Objective(clip=0.2, value_coefficient=0.7, entropy_coefficient=0.03))
    by_hand = ClosedForm(policy)
    assert torch.allclose(by_hand.value(batch.inputs), policy.value(batch.inputs), rtol=1e-12)
    assert torch.equal(by_hand.act(batch.inputs).output, by_hand.act({"vector": batch.inputs["vector"]}).output)
