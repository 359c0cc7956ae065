"""Policies that have a closed form, batches for them, and both gradients."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from updates import objective_gradient

from proximo.control.closed_form.gradient import ClosedForm
from proximo.control.config import NetworkSettings
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.batch import Batch
from proximo.core.updates.optimizer import FlatAdam

SAMPLES, NUMBERS = 24, 5
RANGE = (-1.5, 0.5)


LOG_STDS = (-1.5, -3.0, 0.1, 0.5, 0.9)


def policy_of(head, *, activation="tanh", hidden=(8,), normalised=True, log_stds=LOG_STDS, seed=0, noise="log"):
    """A policy with weights all over the place; its log stds lie at, inside and beyond their bounds."""
    space = spaces.Box(-2, 3, (5,), np.float32) if head == "gaussian" else spaces.Discrete(4, start=1)
    settings = NetworkSettings(hidden=hidden, activation=activation, log_std_range=RANGE, noise=noise)
    torch.manual_seed(seed)
    observations = ObservationSpec.of(spaces.Box(-1, 1, (NUMBERS,), np.float32))
    policy = ControlPolicy(observations, ActionSpec.of(space), settings, normalize_observations=normalised, clip=1.5)
    policy.double()
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
        if head == "gaussian" and noise == "log":
            policy.log_std.copy_(torch.tensor(log_stds))
        if normalised:
            policy.normalizer.moments.absorb(2.0 * torch.randn(50, NUMBERS) + 0.7)
    return policy


def batch_of(policy, *, seed=0, masked=False, zeros=True, also=()):
    """Samples of another policy than this one, some far away; those of weight 0 hold rubbish."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, scale=1.0):
        return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)

    inputs = {"vector": normal(SAMPLES, NUMBERS, scale=2.0), **dict(also)}
    if masked:
        inputs["mask"] = torch.rand(SAMPLES, 4, generator=generator) < 0.6
        inputs["mask"][:, 1] = True
    acted = policy.act(inputs, generator=generator)
    weight = torch.ones(SAMPLES, dtype=torch.float64)
    log_prob = acted.log_prob + normal(SAMPLES, scale=0.4)
    advantages, returns = normal(SAMPLES), normal(SAMPLES)
    if zeros:
        weight[1::7] = 0.25
        weight[::5] = 0.0
        log_prob[::5], advantages[::5], returns[::5] = torch.nan, 1e9, -torch.inf
    return Batch(inputs, acted.action, log_prob, acted.value + normal(SAMPLES, scale=0.5), advantages, returns, weight)


def both(policy, batch, objective):
    """(gradient, statistics) by autograd and by hand."""
    found = []
    for by_hand in (False, True):
        optimizer = FlatAdam(policy.parameters_by_layer(), 0.0)
        gradient = ClosedForm(policy).at(objective) if by_hand else objective_gradient(policy, objective)
        statistics = gradient(batch)
        found.append((optimizer.gradient.clone(), {name: float(x) for name, x in statistics.items()}))
    return found


def agree(policy, batch, objective):
    (expected, told), (gradient, tells) = both(policy, batch, objective)
    assert expected.abs().max() > 1e-3, "a gradient of nothing proves nothing"
    torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-9)
    assert list(tells) == list(told)
    assert tells == pytest.approx(told, rel=1e-9, abs=1e-9)
