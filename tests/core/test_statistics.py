import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.statistics import (
    RunningMoments,
    explained_variance,
    informative,
    scale_of_rewards,
    weighted_mean,
    weighted_moments,
)

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_weighted_mean_is_numpys_average():
    x, weight = normal(4, 5), normal(4, 5, seed=1).abs()
    assert weighted_mean(x, weight).item() == pytest.approx(np.average(x, weights=weight), rel=1e-13)
    assert weighted_mean(x).item() == pytest.approx(x.numpy().mean(), rel=1e-13)


@settings(deadline=None, max_examples=30)
@given(n=st.integers(1, 20), cut=st.integers(0, 20), weighted=st.booleans())
def test_parts_with_the_total_weight_add_up_to_the_mean(n, cut, weighted):
    x = normal(n, seed=n)
    weight = normal(n, seed=n + 1).abs()
    total = weight.sum() if weighted else n
    parts = sum(
        weighted_mean(x[part], weight[part] if weighted else None, total) for part in (slice(0, cut), slice(cut, None))
    )
    assert parts.item() == pytest.approx(np.average(x, weights=weight if weighted else None), rel=1e-12, abs=1e-13)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -1e30])
def test_weight_zero_leaves_value_and_gradient_alone(garbage):
    x = torch.tensor([1.0, garbage, 3.0], requires_grad=True)
    mean = weighted_mean(x, torch.tensor([1, 0, 1]))
    mean.backward()
    assert mean.item() == 2.0
    assert x.grad.tolist() == [0.5, 0.0, 0.5]


def test_no_weight_at_all_is_a_mean_of_zero():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    mean = weighted_mean(x, torch.zeros(2))
    mean.backward()
    assert mean.item() == 0.0
    assert x.grad.tolist() == [0.0, 0.0]


def test_weighted_moments_are_numpys():
    x, weight = 100 + normal(300), normal(300, seed=1).abs()
    mean, variance = weighted_moments(x, weight)
    assert mean.item() == pytest.approx(np.average(x, weights=weight), rel=1e-14)
    assert variance.item() == pytest.approx(np.cov(x, aweights=weight, ddof=0).item(), rel=1e-11)


@pytest.mark.parametrize("value", [0.1, -7.7, 1e6 + 0.3])
def test_the_variance_of_constant_data_is_exactly_zero(value):
    for n in (1, 3, 1000, 12345):
        assert weighted_moments(torch.full((n,), value))[1].item() == 0.0
        assert weighted_moments(torch.full((n,), value), torch.full((n,), 0.3))[1].item() == 0.0


def test_explained_variance_of_known_critics():
    targets = normal(200) * 3 + 5
    assert explained_variance(targets, targets).item() == 1.0
    assert explained_variance(targets + 8, targets).item() == pytest.approx(1.0)  # an offset varies with nothing
    assert explained_variance(torch.full_like(targets, 2.0), targets).item() == pytest.approx(0.0, abs=1e-12)
    assert explained_variance(-targets, targets).item() == pytest.approx(-3.0)  # Var[2 G] / Var[G] = 4
    assert explained_variance(targets / 2, targets).item() == pytest.approx(0.75)


def test_explained_variance_is_numpys_and_drops_samples_of_weight_zero():
    predictions, targets = normal(60), normal(60, seed=1)
    expected = 1 - np.var(targets.numpy() - predictions.numpy()) / np.var(targets.numpy())
    assert explained_variance(predictions, targets).item() == pytest.approx(expected, rel=1e-12)
    weight = torch.cat([torch.ones(60), torch.zeros(10)])
    garbage = torch.full((10,), math.nan, dtype=F64)
    padded = explained_variance(torch.cat([predictions, garbage]), torch.cat([targets, garbage]), weight)
    assert padded.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.7, 1e6 + 0.3])
def test_explained_variance_of_constant_targets_has_no_answer(value):
    for n in (1, 7, 1000, 12345):
        assert math.isnan(explained_variance(torch.randn(n), torch.full((n,), value)).item())


def test_targets_that_differ_by_rounding_alone_do_not_vary():
    x = torch.full((100,), 1e6)
    x[::3] = 1e6 + 0.0625  # the next number in single precision
    assert weighted_moments(x)[1].item() == 0.0
    assert math.isnan(explained_variance(torch.zeros(100), x).item())
    assert weighted_moments(x + 10 * torch.arange(100))[1].item() > 8e4


def absorbed(*parts, shape=()):
    moments = RunningMoments(shape)
    for part in parts:
        moments.absorb(part)
    return moments


def test_a_fresh_normaliser_is_the_identity():
    moments = RunningMoments((3,))
    assert moments.mean.tolist() == [0.0] * 3
    assert moments.variance.tolist() == [1.0] * 3
    moments.absorb(torch.full((1, 3), 5.0))
    assert moments.mean.tolist() == [5.0] * 3
    assert moments.variance.tolist() == [1.0] * 3  # one sample says nothing of a variance


@settings(deadline=None, max_examples=40)
@given(sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6), seed=st.integers(0, 1000), data=st.data())
def test_parts_in_any_order_give_the_moments_of_the_whole(sizes, seed, data):
    parts = [4 + 3 * normal(n, 2, seed=seed + i) for i, n in enumerate(sizes)]
    whole = torch.cat(parts).numpy()
    moments = absorbed(*data.draw(st.permutations(parts)), shape=(2,))
    assert moments.count.item() == len(whole)
    if len(whole) > 1:
        np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-13)
        np.testing.assert_allclose(moments.variance, whole.var(0), rtol=1e-11)


@settings(deadline=None, max_examples=40)
@given(left=st.integers(0, 20), right=st.integers(0, 20))
def test_merging_two_streams_is_seeing_both(left, right):
    a, b = normal(left, seed=1), 1e3 + 5 * normal(right, seed=2)
    merged, other = absorbed(a), absorbed(b)
    merged.merge(other.count, other.mean, other.squares)
    both = absorbed(torch.cat([a, b]))
    for name in ("count", "mean", "squares"):
        np.testing.assert_allclose(getattr(merged, name), getattr(both, name), rtol=1e-11, atol=1e-12)


def test_a_thousandth_on_a_million_keeps_its_digits():
    # Sums of squares would lose it: 1e12 has 16 digits, a variance of 1e-6 stands at the 18th.
    x = 1e6 + 1e-3 * normal(5000, seed=3)
    centred = x.numpy() - 1e6  # exact: both are within a factor of two of each other
    moments = absorbed(*x.split(7))
    assert moments.mean.item() - 1e6 == pytest.approx(centred.mean(), abs=1e-9)
    assert moments.variance.item() == pytest.approx(centred.var(), rel=1e-5)


def test_moments_are_float64_whatever_they_are_fed():
    moments = RunningMoments()
    moments.absorb(torch.full((3,), 0.1, dtype=torch.float32))
    moments.absorb(torch.tensor([1, 2, 3]))
    assert {x.dtype for x in moments.state_dict().values()} == {F64}
    assert moments.count.item() == 6


def test_counts_beyond_single_precision_are_exact():
    moments = RunningMoments()
    moments.absorb(torch.zeros(1).expand(2**24 + 1))
    assert moments.count.item() == 2**24 + 1


def test_leading_axes_are_samples():
    x = normal(4, 5, 2, 3)
    moments = absorbed(x, shape=(2, 3))
    np.testing.assert_allclose(moments.variance, x.numpy().reshape(20, 2, 3).var(0), rtol=1e-12)


def test_rows_of_weight_zero_do_not_exist():
    x = normal(6, 2)
    weight = torch.tensor([1.0, 0, 1, 1, 0, 1])
    expected = absorbed(x[weight > 0], shape=(2,))
    x[weight == 0] = math.nan
    moments = RunningMoments((2,))
    moments.absorb(x, weight)
    moments.absorb(x, torch.zeros(6))
    for name, value in moments.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name])


def test_merging_nothing_changes_nothing():
    zero = torch.zeros((), dtype=F64)
    moments = RunningMoments()
    moments.merge(zero, zero, zero)
    assert (moments.mean.item(), moments.variance.item()) == (0.0, 1.0)
    moments = absorbed(normal(5))
    before = {name: x.clone() for name, x in moments.state_dict().items()}
    moments.merge(zero, zero + 7, zero)
    assert all(torch.equal(x, before[name]) for name, x in moments.state_dict().items())


def test_scale_is_the_standard_deviation_guarded():
    moments = absorbed(torch.tensor([1.0, 5.0]))
    assert moments.scale(epsilon=0.0).item() == 2.0
    assert absorbed(torch.ones(5)).scale(epsilon=1e-4).item() == pytest.approx(1e-2)


@pytest.mark.parametrize(
    ("rewards", "share", "scale"),
    [
        ([0.0] * 98 + [1.0] * 2, 0.02, 1.0),  # a rare success counts as much as it pays
        ([1.0] * 98 + [0.0] * 2, 0.02, 1.0),
        ([7.0] * 50, 0.0, 0.0),
        ([-1.0, 0.0, 1.0], 2 / 3, 1.0),
        ([5.0, 5.0, 5.0, 8.0, 1.0], 0.4, 12.5**0.5),
        ([3.0], 0.0, 0.0),
        ([], 0.0, 0.0),
    ],
)
def test_how_much_rewards_say(rewards, share, scale):
    seen = informative(torch.tensor(rewards, dtype=F64))
    assert seen == pytest.approx((share, scale))
    moved = informative(3.0 * torch.tensor(rewards, dtype=F64) + 100.0)
    assert moved == pytest.approx((share, 3.0 * scale))


def test_the_scale_of_normal_rewards_is_their_deviation_and_what_weighs_nothing_is_not_looked_at():
    x = 40.0 + 2.0 * torch.randn(4001, generator=torch.Generator().manual_seed(0), dtype=F64)
    weight = torch.ones_like(x)
    share, scale = informative(torch.cat([x, torch.full((500,), 1e9)]), torch.cat([weight, torch.zeros(500)]))
    assert share == pytest.approx(1.0, abs=1e-3)
    assert scale == pytest.approx(2.0, rel=0.05)


def test_rewards_that_differ_by_rounding_alone_say_nothing():
    generator = torch.Generator().manual_seed(0)
    rewards = 0.3 + 1e-7 * torch.rand(64, generator=generator)
    assert len(rewards.unique()) > 1
    assert informative(rewards) == (0.0, 0.0)
    rewards[5] += 1e-5  # what is no rounding counts
    share, scale = informative(rewards)
    assert share == 1 / 64
    assert scale == pytest.approx(1e-5, rel=0.02)


def test_rewards_that_are_all_0_have_the_scale_1_and_others_their_own():
    everything = torch.ones(6)
    assert scale_of_rewards(torch.zeros(6), everything) == 1.0
    assert scale_of_rewards(torch.tensor([0.0, 0, 0, 0, 0, 3.0]), everything) == 3.0
    assert scale_of_rewards(torch.ones(6), everything) == 0.0  # episodes may differ in length
    assert scale_of_rewards(torch.tensor([0.0, 0, 0, 0, 0, 3.0]), torch.tensor([1, 1, 1, 1, 1, 0])) == 1.0
