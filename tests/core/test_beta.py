"""Betas stretched to [-1, 1], against torch's and against sums over a fine grid."""

import math

import pytest
import torch
from torch import distributions as reference

from proximo.core.beta import Beta

F64 = torch.float64


def numbers(*shape, seed=0, scale=1.5):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def theirs(ours):
    return reference.Beta(ours.first + 1, ours.second + 1)


def test_a_beta_is_torchs_stretched_to_twice_its_width():
    ours, other = Beta.of_outputs(numbers(50, 6)), Beta.of_outputs(numbers(50, 6, seed=1))
    action = ours.sample(torch.Generator().manual_seed(2))
    stretched = theirs(ours).log_prob((1 + action) / 2) - math.log(2)
    torch.testing.assert_close(ours.log_prob(action), stretched.sum(-1))
    torch.testing.assert_close(ours.entropy(), (theirs(ours).entropy() + math.log(2)).sum(-1))
    torch.testing.assert_close(ours.kl(other), reference.kl_divergence(theirs(ours), theirs(other)).sum(-1))
    torch.testing.assert_close(ours.log_std.exp(), 2 * theirs(ours).stddev)
    assert ours.kl(ours).abs().max() < 1e-12
    assert ours.kl(other).min() > 0


def test_the_density_is_one_in_all_and_its_mean_is_the_deterministic_action():
    ours = Beta.of_outputs(numbers(20, 2, scale=3.0))
    width = 2 / 200_000
    grid = (-1 + width * (torch.arange(200_000, dtype=F64) + 0.5)).reshape(-1, 1, 1)
    density = ours.log_prob(grid.expand(-1, 20, 1)).exp()
    torch.testing.assert_close(density.sum(0) * width, torch.ones(20, dtype=F64), rtol=1e-6, atol=1e-6)
    entropy = -(density * density.clamp_min(1e-300).log()).sum(0) * width
    torch.testing.assert_close(ours.entropy(), entropy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(ours.mode()[:, 0], (grid[:, :, 0] * density).sum(0) * width, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("outputs", [(0.0, 0.0), (3.0, -2.0), (-6.0, 5.0)])
def test_samples_have_the_betas_distribution_and_lie_within_the_bounds(outputs):
    ours = Beta.of_outputs(torch.tensor(outputs).expand(100_000, 2))
    samples = ours.sample(torch.Generator().manual_seed(0))
    assert samples.abs().max() < 1
    assert torch.isfinite(ours.log_prob(samples)).all()
    x = (0.5 * (1 + samples[:, 0])).double().sort().values.numpy()
    from scipy.stats import beta, kstest

    a, b = (float(each[0, 0]) + 1 for each in (ours.first, ours.second))
    assert kstest(x, beta(a, b).cdf).pvalue > 1e-3
    again = ours.sample(torch.Generator().manual_seed(0))
    assert torch.equal(samples, again)


def test_extreme_outputs_stay_finite_with_their_gradients():
    outputs = torch.tensor([[-200.0, 200.0, 3e3, 3e3], [-200.0, -200.0, 0.0, 1e4]], requires_grad=True)
    ours, other = Beta.of_outputs(outputs), Beta.of_outputs(torch.zeros(2, 4))
    action = ours.sample(torch.Generator().manual_seed(0))
    everything = [ours.log_prob(action), ours.entropy(), ours.kl(other), other.kl(ours), ours.mode().sum(-1)]
    torch.stack(everything).sum().backward()
    assert all(torch.isfinite(x).all() for x in [*everything, outputs.grad])


def test_the_gradient_of_the_log_prob_is_that_of_its_differences():
    outputs = numbers(8, 4).requires_grad_()
    action = Beta.of_outputs(outputs).sample(torch.Generator().manual_seed(1))

    def told(x):
        ours = Beta.of_outputs(x)
        return ours.log_prob(action), ours.entropy(), ours.kl(Beta.of_outputs(numbers(8, 4, seed=3)))

    torch.autograd.gradcheck(told, outputs)
