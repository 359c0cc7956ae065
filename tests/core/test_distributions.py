import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions as reference

from proximo.core.distributions import (
    Bernoulli,
    Categorical,
    Gaussian,
    Product,
    SquashedGaussian,
    log_tanh_slope,
)

F64 = torch.float64
DRAWS = 100_000


def normal(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_frequencies(samples, probs):
    """Each frequency lies within five standard deviations of its probability."""
    counts = torch.bincount(samples.long(), minlength=len(probs)).to(F64) / len(samples)
    assert ((counts - probs).abs() <= 5 * torch.sqrt(probs * (1 - probs) / len(samples))).all()


def assert_drawn_from(samples, cdf):
    """Kolmogorov-Smirnov distance below the value that chance exceeds once in a thousand."""
    x = samples.sort().values
    steps = torch.arange(1, len(x) + 1, dtype=F64) / len(x)
    distance = torch.maximum((cdf(x) - steps).abs(), (cdf(x) - steps + 1 / len(x)).abs()).max()
    assert distance < 1.95 / math.sqrt(len(x))


# Categorical


def test_categorical_is_torchs():
    a, b = normal(5, 3, 4), normal(5, 3, 4, seed=1)
    ours, theirs, other = Categorical(a), reference.Categorical(logits=a), reference.Categorical(logits=b)
    action = torch.randint(4, (5, 3), generator=generator())
    close(ours.log_prob(action), theirs.log_prob(action))
    close(ours.log_prob(action.float()), theirs.log_prob(action))  # a stored action may be a float
    close(ours.entropy(), theirs.entropy())
    close(ours.probs, theirs.probs)
    close(ours.kl(Categorical(b)), reference.kl_divergence(theirs, other))
    assert torch.equal(ours.mode(), a.argmax(-1))


def test_categorical_samples_have_their_probabilities():
    logits = torch.tensor([0.0, 1.0, -2.0, 2.0, -8.0], dtype=F64)
    samples = Categorical(logits.expand(DRAWS, 5)).sample(generator())
    assert_frequencies(samples, torch.softmax(logits, -1))
    assert torch.equal(samples, Categorical(logits.expand(DRAWS, 5)).sample(generator()))
    assert not torch.equal(samples, Categorical(logits.expand(DRAWS, 5)).sample(generator(1)))


@settings(deadline=None, max_examples=40)
@given(data=st.data(), n=st.integers(2, 6), seed=st.integers(0, 1000), dtype=st.sampled_from([torch.float32, F64]))
def test_a_masked_categorical_is_the_categorical_of_the_rest(data, n, seed, dtype):
    allowed = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    mask = torch.tensor(allowed)
    logits, others = normal(7, n, seed=seed, scale=3).to(dtype), normal(7, n, seed=seed + 1).to(dtype)
    ours, rest = Categorical(logits, mask), reference.Categorical(logits=logits[:, mask])
    tolerance = 1e-12 if dtype == F64 else 1e-5
    assert (ours.probs[:, ~mask] == 0).all()
    close(ours.probs[:, mask], rest.probs, tolerance)
    close(ours.entropy(), rest.entropy(), tolerance)
    close(
        ours.kl(Categorical(others, mask)),
        reference.kl_divergence(rest, reference.Categorical(logits=others[:, mask])),
        tolerance,
    )
    assert mask[ours.mode()].all()
    assert mask[ours.sample(generator(seed))].all()


def test_masked_choices_are_never_drawn_and_the_rest_keep_their_odds():
    logits = torch.tensor([9.0, 0.0, 1.0, 9.0])
    mask = torch.tensor([False, True, True, False])
    samples = Categorical(logits.expand(DRAWS, 4), mask).sample(generator())
    odds = 1 / (1 + math.e)
    assert_frequencies(samples, torch.tensor([0.0, odds, 1 - odds, 0.0], dtype=F64))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_gradients_stay_away_from_masked_choices(scale):
    logits = normal(6, 5, scale=scale).float().requires_grad_()
    mask = torch.rand(6, 5, generator=generator()) < 0.5
    mask[:, 2] = True
    ours = Categorical(logits, mask)
    (
        ours.entropy() + ours.log_prob(torch.full((6,), 2)) + ours.kl(Categorical(logits.detach() / 2, mask))
    ).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask] != 0).any()


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4]], requires_grad=True)
    ours = Categorical(logits)
    everything = [ours.log_prob(torch.tensor([1, 2])), ours.entropy(), ours.kl(Categorical(-logits))]
    torch.stack(everything).sum().backward()
    assert all(torch.isfinite(x).all() for x in [*everything, logits.grad])
    assert ours.entropy().tolist() == pytest.approx([0.0, math.log(3)])
    assert ours.log_prob(torch.tensor([1, 2]))[0].item() == -2e4
    assert ours.sample(generator())[0].item() == 0


def test_a_mask_outweighs_any_logit():
    logits = torch.tensor([[-1e4, 1e4, -1e4]])
    ours = Categorical(logits, torch.tensor([True, False, True]))
    assert ours.probs.tolist() == [[0.5, 0.0, 0.5]]
    assert ours.entropy().item() == pytest.approx(math.log(2))
    assert ours.log_prob(torch.tensor([2])).item() == pytest.approx(-math.log(2))


# Bernoulli


def test_bernoulli_is_torchs():
    a, b = normal(6, 3, scale=3), normal(6, 3, seed=1)
    theirs = reference.Independent(reference.Bernoulli(logits=a), 1)
    action = (torch.rand(6, 3, generator=generator()) < 0.5).to(F64)
    ours = Bernoulli(a)
    close(ours.log_prob(action), theirs.log_prob(action))
    close(ours.log_prob(action.bool()), theirs.log_prob(action))
    close(ours.entropy(), theirs.entropy())
    close(
        ours.kl(Bernoulli(b)),
        reference.kl_divergence(theirs, reference.Independent(reference.Bernoulli(logits=b), 1)),
    )
    assert torch.equal(ours.mode(), (a > 0).to(F64))


def test_bernoulli_samples_have_their_probabilities():
    logits = torch.tensor([-3.0, 0.0, 1.5])
    samples = Bernoulli(logits.expand(DRAWS, 3)).sample(generator())
    for i, p in enumerate(torch.sigmoid(logits.to(F64)).tolist()):
        assert_frequencies(samples[:, i], torch.tensor([1 - p, p], dtype=F64))


@settings(deadline=None)
@given(logit=st.floats(0, 80, width=32))
def test_the_entropy_of_a_switch_is_symmetric_to_its_last_digits(logit):
    up, down = Bernoulli(torch.tensor([logit])).entropy(), Bernoulli(torch.tensor([-logit])).entropy()
    exact = math.log1p(math.exp(-logit)) + logit / (1 + math.exp(logit))  # p log(1/p) + (1-p) log(1/(1-p)), p < 1/2
    assert up.item() == down.item() == pytest.approx(exact, rel=1e-5)


def test_extreme_switches_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    ours = Bernoulli(logits)
    everything = [ours.log_prob(torch.tensor([[0.0, 1, 1]])), ours.entropy(), ours.kl(Bernoulli(-logits))]
    torch.stack(everything).sum().backward()
    assert all(torch.isfinite(x).all() for x in [*everything, logits.grad])
    assert ours.entropy().item() == pytest.approx(math.log(2))


# Gaussian


def independent(mean, log_std):
    return reference.Independent(reference.Normal(mean, log_std.exp()), 1)


def test_gaussian_is_torchs_and_its_log_std_broadcasts():
    mean, log_std, other = normal(5, 3), normal(3, seed=1), normal(5, 3, seed=2)
    other_log_std = normal(5, 3, seed=3)
    ours, theirs = Gaussian(mean, log_std), independent(mean, log_std)
    action = normal(5, 3, seed=4, scale=3)
    close(ours.log_prob(action), theirs.log_prob(action))
    close(ours.entropy(), theirs.entropy())
    close(ours.kl(Gaussian(other, other_log_std)), reference.kl_divergence(theirs, independent(other, other_log_std)))
    assert torch.equal(ours.mode(), mean)
    assert ours.entropy().shape == (5,)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6))
def test_kl_is_zero_to_itself_and_positive_to_others(seed):
    mean, log_std = normal(4, 2, seed=seed), normal(4, 2, seed=seed + 1)
    moved = normal(4, 2, seed=seed + 2)
    for kind, parameters, others in (
        (Gaussian, (mean, log_std), (moved, log_std)),
        (SquashedGaussian, (mean, log_std), (mean, moved)),
        (Categorical, (mean,), (moved,)),
        (Bernoulli, (mean,), (moved,)),
    ):
        assert (kind(*parameters).kl(kind(*parameters)).abs() < 1e-14).all()
        assert (kind(*parameters).kl(kind(*others)) > 0).all()


def test_gaussian_samples_follow_the_normal_law():
    mean, log_std = torch.tensor([1.0, -2.0], dtype=F64), torch.tensor([0.5, -1.0], dtype=F64)
    samples = Gaussian(mean.expand(DRAWS, 2), log_std).sample(generator())
    for i in range(2):
        assert_drawn_from(samples[:, i], reference.Normal(mean[i], log_std[i].exp()).cdf)
    # The columns are independent: their correlation is within five standard deviations of zero.
    assert abs(np.corrcoef(samples.T)[0, 1]) < 5 / math.sqrt(DRAWS)


def test_samples_carry_no_gradient_and_log_probs_do():
    mean = torch.zeros(3, 2, requires_grad=True)
    for ours in (Gaussian(mean, torch.zeros(2)), SquashedGaussian(mean, torch.zeros(2)), Bernoulli(mean)):
        action = ours.sample(generator())
        assert not action.requires_grad
        assert ours.log_prob(action).requires_grad


# Squashed Gaussian


def squashed(mean, log_std):
    base = reference.Normal(mean, log_std.exp())
    return reference.Independent(reference.TransformedDistribution(base, [reference.TanhTransform()]), 1)


def test_the_squashed_log_prob_is_that_of_the_transformed_variable():
    mean, log_std = normal(50, 3), normal(3, seed=1, scale=0.3)
    u = SquashedGaussian(mean, log_std).sample(generator())
    # At |u| = 3 atanh(tanh(u)) has lost two digits of float64, hence the tolerance.
    u = u.clamp(-3, 3)
    close(SquashedGaussian(mean, log_std).log_prob(u), squashed(mean, log_std).log_prob(torch.tanh(u)), 1e-9)


def test_the_squashed_density_integrates_to_one():
    ours = SquashedGaussian(torch.tensor([0.3], dtype=F64), torch.tensor([-0.2], dtype=F64))
    a = torch.linspace(-1, 1, 400_001, dtype=F64)[1:-1]
    density = ours.log_prob(torch.atanh(a).unsqueeze(-1)).exp()
    assert torch.trapezoid(density, a).item() == pytest.approx(1.0, abs=1e-6)


def test_squashed_samples_are_values_before_tanh():
    ours = SquashedGaussian(torch.full((DRAWS, 1), 0.4, dtype=F64), torch.zeros(1, dtype=F64))
    u = ours.sample(generator())
    assert_drawn_from(u[:, 0], reference.Normal(0.4, 1.0).cdf)
    assert torch.equal(ours.mode(), ours.mean)


def entropy_on_a_grid(mean, std):
    """-∫ p(a) log p(a) da with a = tanh(u), by the trapezoid rule, which is all but exact on such a bell."""
    u = mean + std * torch.linspace(-12, 12, 20_001, dtype=F64)
    law = reference.Normal(torch.tensor(mean, dtype=F64), std)
    log_density = law.log_prob(u) + 2 * torch.log(torch.cosh(u))
    return -torch.trapezoid(law.log_prob(u).exp() * log_density, u).item()


@pytest.mark.parametrize("mean", [0.0, 0.7, -2.0, 4.0])
@pytest.mark.parametrize(("std", "tolerance"), [(0.05, 1e-9), (0.5, 1e-6), (1.0, 1e-3), (3.0, 0.03)])
def test_the_squashed_entropy_is_the_integral(mean, std, tolerance):
    ours = SquashedGaussian(torch.tensor([mean], dtype=F64), torch.tensor([std], dtype=F64).log())
    assert ours.entropy().item() == pytest.approx(entropy_on_a_grid(mean, std), abs=tolerance)


def test_the_squashed_entropy_is_the_mean_of_minus_log_prob():
    ours = SquashedGaussian(normal(2).expand(DRAWS, 2), normal(2, seed=1, scale=0.3))
    surprise = -ours.log_prob(ours.sample(generator()))
    error = surprise.std().item() / math.sqrt(DRAWS)
    assert surprise.mean().item() == pytest.approx(ours.entropy()[0].item(), abs=5 * error)


def test_the_squashed_entropy_has_the_gradient_of_the_integral():
    mean, log_std = torch.tensor([0.7], dtype=F64, requires_grad=True), torch.zeros(1, dtype=F64, requires_grad=True)
    SquashedGaussian(mean, log_std).entropy().backward()
    h = 1e-4
    by_mean = (entropy_on_a_grid(0.7 + h, 1.0) - entropy_on_a_grid(0.7 - h, 1.0)) / (2 * h)
    by_log_std = (entropy_on_a_grid(0.7, math.exp(h)) - entropy_on_a_grid(0.7, math.exp(-h))) / (2 * h)
    assert mean.grad.item() == pytest.approx(by_mean, abs=1e-4)
    assert log_std.grad.item() == pytest.approx(by_log_std, abs=1e-4)


def test_the_squashed_kl_is_that_of_the_gaussians():
    mean, log_std, other = normal(4, 2), normal(2, seed=1), normal(4, 2, seed=2)
    expected = reference.kl_divergence(independent(mean, log_std), independent(other, log_std))
    close(SquashedGaussian(mean, log_std).kl(SquashedGaussian(other, log_std)), expected)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_saturated_actions_stay_finite(dtype):
    u = torch.tensor([[50.0], [-50.0], [0.0]], dtype=dtype, requires_grad=True)
    slope = log_tanh_slope(u)
    # tanh is odd, and for large |u| its slope is 4 exp(-2 |u|)
    assert slope.flatten().tolist() == pytest.approx([math.log(4) - 100, math.log(4) - 100, 0.0], abs=1e-5)
    ours = SquashedGaussian(torch.zeros(3, 1, dtype=dtype), torch.zeros(1, dtype=dtype))
    log_prob = ours.log_prob(u)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    # d/du (-u^2/2 + 2 log cosh u) = -u + 2 tanh u
    assert u.grad.flatten().tolist() == pytest.approx([-48.0, 48.0, 0.0], abs=1e-5)
    far = SquashedGaussian(u, torch.zeros(1, dtype=dtype))
    assert torch.isfinite(far.entropy()).all()


# Product


def parts(seed=0, dtype=F64):
    mask = torch.tensor([True, False, True])
    return [
        Categorical(normal(4, 3, seed=seed).to(dtype), mask),
        Gaussian(normal(4, 2, seed=seed + 1).to(dtype), normal(2, seed=seed + 2).to(dtype)),
        Bernoulli(normal(4, 3, seed=seed + 3).to(dtype)),
        SquashedGaussian(normal(4, 1, seed=seed + 4).to(dtype), normal(1, seed=seed + 5).to(dtype)),
        Categorical(normal(4, 5, seed=seed + 6).to(dtype)),
    ]


def test_a_product_is_the_sum_of_its_parts():
    mine, others = parts(), parts(seed=50)
    product = Product(mine)
    action = product.sample(generator())
    assert product.event_size == 1 + 2 + 3 + 1 + 1
    assert action.shape == (4, 8)
    columns = [action[:, 0], action[:, 1:3], action[:, 3:6], action[:, 6:7], action[:, 7]]
    close(product.log_prob(action), sum(p.log_prob(a) for p, a in zip(mine, columns, strict=True)))
    close(product.entropy(), sum(p.entropy() for p in mine))
    close(product.kl(Product(others)), sum(p.kl(q) for p, q in zip(mine, others, strict=True)))


def test_a_products_sample_holds_the_parts_samples_to_the_last_digit():
    product, g = Product(parts()), generator(7)
    alone = [part.sample(g) for part in parts()]
    joined = torch.cat([(a if a.ndim == 2 else a.unsqueeze(-1)).to(F64) for a in alone], -1)
    assert torch.equal(product.sample(generator(7)), joined)
    assert product.sample(generator(7)).dtype == F64
    assert Product(parts(dtype=torch.float32)).sample(generator(7)).dtype == torch.float32


def test_a_products_mode_is_made_of_modes():
    modes = [part.mode() for part in parts()]
    assert torch.equal(Product(parts()).mode()[:, 0], modes[0].to(F64))
    assert torch.equal(Product(parts()).mode()[:, 1:3], modes[1])


def test_a_product_of_choices_draws_them_independently():
    logits = [torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0, -1.0])]
    action = Product([Categorical(x.expand(DRAWS, -1)) for x in logits]).sample(generator())
    joint = torch.outer(*[torch.softmax(x.to(F64), -1) for x in logits]).flatten()
    assert_frequencies(action[:, 0] * 3 + action[:, 1], joint)


def test_products_nest():
    inner = Product(parts()[:2])
    outer = Product([inner, parts()[2]])
    flat = Product(parts()[:3])
    action = flat.sample(generator())
    close(outer.log_prob(action), flat.log_prob(action))


def test_divergences_of_different_kinds_are_refused():
    mean = torch.zeros(2, 3)
    with pytest.raises(TypeError, match="Categorical"):
        Gaussian(mean, mean).kl(Categorical(mean))
    with pytest.raises(TypeError, match="Squashed"):
        Gaussian(mean, mean).kl(SquashedGaussian(mean, mean))
    with pytest.raises(TypeError, match="Bernoulli"):
        Product([Categorical(mean)]).kl(Product([Bernoulli(mean)]))
    with pytest.raises(ValueError):
        Product([Categorical(mean)]).kl(Product([Categorical(mean)] * 2))
