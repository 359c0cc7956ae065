import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.divergences import AdaptiveKLController, FixedKLController, kl_k1, kl_k3, steadied

F64 = torch.float64


def pair(seed, choices=6, spread=2.0):
    """Log-probs of two distributions over a handful of outcomes, all of which can be listed."""
    g = torch.Generator().manual_seed(seed)
    p, q = torch.log_softmax(spread * torch.randn(2, choices, generator=g, dtype=F64), -1)
    return p, q


def exact(p, q):
    return torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=p), torch.distributions.Categorical(logits=q)
    ).item()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_k1_and_k3_are_unbiased(seed):
    p, q = pair(seed)
    # The expectation over x ~ p, listed outcome by outcome.
    assert (p.exp() * kl_k1(p, q)).sum().item() == pytest.approx(exact(p, q), rel=1e-10, abs=1e-13)
    assert (p.exp() * kl_k3(p, q)).sum().item() == pytest.approx(exact(p, q), rel=1e-10, abs=1e-13)


@settings(deadline=None)
@given(a=st.floats(-50, 0, width=32), b=st.floats(-50, 0, width=32))
def test_k3_is_never_negative(a, b):
    a, b = torch.tensor(a), torch.tensor(b)
    assert kl_k3(a, b) >= 0
    assert kl_k3(a, a) == kl_k1(a, a) == 0
    assert kl_k1(a, b) == -kl_k1(b, a)


def test_estimates_of_one_sample_by_hand():
    # p(x) = 1/2, q(x) = 1/4: k1 = log 2, k3 = 1/2 - 1 + log 2
    p, q = torch.tensor(0.5, dtype=F64).log(), torch.tensor(0.25, dtype=F64).log()
    assert kl_k1(p, q).item() == pytest.approx(math.log(2))
    assert kl_k3(p, q).item() == pytest.approx(math.log(2) - 0.5)


def test_k3_keeps_its_digits_where_p_and_q_are_close():
    gap = torch.tensor(1e-3)
    # gap^2 / 2 - gap^3 / 6; exp(gap) - 1 in single precision alone would be off by 10 %
    assert kl_k3(gap, torch.tensor(0.0)).item() == pytest.approx(5e-7 - 1.67e-10, rel=1e-3)


def test_the_fixed_coefficient_stays():
    controller = FixedKLController(0.1)
    controller.observe(100.0, 1000)
    assert controller.coefficient == 0.1


def test_the_coefficient_moves_towards_the_target_by_hand():
    controller = AdaptiveKLController(0.5, target=6.0, horizon=1000)
    controller.observe(6.6, 100)  # e = 0.1, of which a tenth: * 1.01
    assert controller.coefficient == pytest.approx(0.505)
    controller.observe(6.0, 100)
    assert controller.coefficient == pytest.approx(0.505)
    controller.observe(5.4, 100)
    assert controller.coefficient == pytest.approx(0.505 * 0.99)


@settings(deadline=None)
@given(kl=st.floats(-1e6, 1e6), samples=st.integers(0, 10**9))
def test_the_coefficient_moves_the_right_way_and_never_more_than_a_fifth(kl, samples):
    controller = AdaptiveKLController(1.0, target=6.0, horizon=10_000)
    controller.observe(kl, samples)
    assert 0.8 - 1e-12 <= controller.coefficient <= 1.2 + 1e-12
    assert (controller.coefficient - 1.0) * (kl - 6.0) >= 0


def test_a_loop_around_the_controller_settles_at_the_target():
    controller = AdaptiveKLController(1e-3, target=6.0, horizon=1000)
    for _ in range(2000):
        controller.observe(2.0 / controller.coefficient, 100)  # a policy whose KL is 2 / coefficient
    assert 2.0 / controller.coefficient == pytest.approx(6.0, rel=1e-3)


@pytest.mark.parametrize(
    "bad",
    [
        {"coefficient": 0.1, "target": 0.0, "horizon": 10},
        {"coefficient": 0.1, "target": 1.0, "horizon": 0},
        {"coefficient": -0.1, "target": 1.0, "horizon": 10},
    ],
)
def test_targets_that_can_not_be_steered_to_are_refused(bad):
    with pytest.raises(ValueError, match="adaptive KL"):
        AdaptiveKLController(**bad)


def test_the_steadied_estimate_is_the_divergence_with_less_noise_than_both_of_its_parts():
    """Against the exact KL of two distributions, near and far, over 400 batches of 64."""
    for distance in (0.1, 1.5):
        generator = torch.Generator().manual_seed(3)
        logits = torch.randn(2, 12, generator=generator, dtype=torch.float64)
        p, q = logits[0].log_softmax(0), (logits[0] + distance * logits[1]).log_softmax(0)
        truth = float(exact(p, q))
        drawn = torch.multinomial(p.exp(), 400 * 64, replacement=True, generator=generator).view(400, 64)
        k1, ratio = p[drawn] - q[drawn], torch.expm1(q[drawn] - p[drawn])
        each = {
            "k1": k1.mean(1),
            "k3": (k1 + ratio).mean(1),
            "steadied": torch.stack([steadied(a, b).mean() for a, b in zip(k1, ratio, strict=True)]),
        }
        spread = {name: float((x - truth).square().mean().sqrt()) for name, x in each.items()}
        assert spread["steadied"] < 1.1 * min(spread["k1"], spread["k3"])
        assert abs(float(each["steadied"].mean()) - truth) < 0.03 * truth
