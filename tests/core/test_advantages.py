import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.advantages import gae, leave_one_out, relative, whiten

F64 = torch.float64


def chain(seed, steps=9, columns=4, ends=0.3):
    """A random rollout [T, N]: some steps end by themselves, some are cut."""
    g = torch.Generator().manual_seed(seed)
    rewards, values, next_values = torch.randn(3, steps, columns, generator=g, dtype=F64)
    terminated = torch.rand(steps, columns, generator=g) < ends / 2
    done = terminated | (torch.rand(steps, columns, generator=g) < ends / 2)
    return rewards, values, next_values, terminated, done


def sum_of_td_errors(rewards, values, next_values, terminated, done, gamma, lam):
    """Schulman et al. 2016, eq. 16, as written: sum over l of (gamma lam)^l delta_{t+l}, up to the chain's end."""
    r, v, n, term, end = (x.numpy() for x in (rewards, values, next_values, terminated, done))
    result = np.zeros_like(v)
    for t, column in np.ndindex(v.shape):
        for k in range(t, len(v)):
            delta = r[k, column] - v[k, column] + (0.0 if term[k, column] else gamma * n[k, column])
            result[t, column] += (gamma * lam) ** (k - t) * delta
            if end[k, column]:
                break
    return torch.from_numpy(result)


def discounted_sum(rewards, next_values, terminated, done, gamma):
    """r_t + gamma r_{t+1} + ... + gamma^K V(s_{t+K}), V only where the chain is cut without an end."""
    r, n, term, end = (x.numpy() for x in (rewards, next_values, terminated, done))
    result = np.zeros_like(r)
    for t, column in np.ndindex(r.shape):
        for k in range(t, len(r)):
            result[t, column] += gamma ** (k - t) * r[k, column]
            if end[k, column] or k == len(r) - 1:
                result[t, column] += 0.0 if term[k, column] else gamma ** (k - t + 1) * n[k, column]
                break
    return torch.from_numpy(result)


def close(a, b, tolerance=1e-12):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_constant_rewards_and_values_give_a_geometric_series():
    steps, gamma, lam, reward, value = 50, 0.97, 0.9, 1.5, 4.0
    full = torch.full((steps,), 1.0, dtype=F64)
    never = torch.zeros(steps, dtype=torch.bool)
    advantages, returns = gae(reward * full, value * full, value * full, never, never, gamma=gamma, lam=lam)
    # delta * (1 + gamma lam + ... + (gamma lam)^(T - t - 1)), delta the same at every step
    delta = reward + gamma * value - value
    left = torch.arange(steps, 0, -1, dtype=F64)
    close(advantages, delta * (1 - (gamma * lam) ** left) / (1 - gamma * lam))
    close(returns, advantages + value)


def test_true_values_of_an_endless_chain_have_no_advantage():
    gamma, reward = 0.95, 2.0
    rewards = torch.full((30, 2), reward, dtype=F64)
    values = torch.full((30, 2), reward / (1 - gamma), dtype=F64)
    never = torch.zeros(30, 2, dtype=torch.bool)
    advantages, returns = gae(rewards, values, values, never, never, gamma=gamma, lam=0.8)
    close(advantages, torch.zeros_like(values), 1e-11)
    close(returns, values)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), gamma=st.floats(0, 1), lam=st.floats(0, 1), ends=st.sampled_from([0.0, 0.3, 1.0]))
def test_gae_is_the_sum_of_td_errors(seed, gamma, lam, ends):
    rollout = chain(seed, ends=ends)
    advantages, returns = gae(*rollout, gamma=gamma, lam=lam)
    close(advantages, sum_of_td_errors(*rollout, gamma, lam))
    close(returns - rollout[1], advantages)


def test_lambda_zero_is_the_one_step_td_error():
    rewards, values, next_values, terminated, done = chain(3)
    advantages, _ = gae(rewards, values, next_values, terminated, done, gamma=0.9, lam=0.0)
    target = torch.where(terminated, rewards, rewards + 0.9 * next_values)
    close(advantages, target - values)


def test_lambda_one_is_the_discounted_return_minus_the_value():
    rewards, values, _, terminated, done = chain(4)
    # Within a chain V(s_{t+1}) must be the next row's value, else the sum does not telescope.
    next_values = torch.cat([values[1:], torch.full((1, 4), 0.7, dtype=F64)])
    advantages, returns = gae(rewards, values, next_values, terminated, done, gamma=0.9, lam=1.0)
    close(returns, discounted_sum(rewards, next_values, terminated, done, 0.9))
    close(advantages, returns - values)


@pytest.mark.parametrize("truncated", [True, False])
def test_a_cut_bootstraps_and_an_end_does_not(truncated):
    # One step of reward 1 in a state worth 5, after which the state reached is worth 10; then another episode.
    rewards = torch.tensor([1.0, 100.0], dtype=F64)
    values = torch.tensor([5.0, 0.0], dtype=F64)
    next_values = torch.tensor([10.0, 0.0], dtype=F64)
    done = torch.tensor([True, False])
    terminated = done & (not truncated)
    advantages, returns = gae(rewards, values, next_values, terminated, done, gamma=0.9, lam=0.95)
    # truncated: 1 + 0.9 * 10 - 5 = 5; terminated: 1 - 5 = -4; the 100 of the next episode is in neither.
    assert advantages[0].item() == pytest.approx(5.0 if truncated else -4.0, abs=1e-12)
    assert returns[0].item() == pytest.approx(10.0 if truncated else 1.0, abs=1e-12)
    assert advantages[1].item() == pytest.approx(100.0)


@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
def test_nothing_flows_over_the_end_of_a_chain(garbage):
    rewards, values, next_values, terminated, done = chain(5, ends=0.0)
    terminated[3, 0] = True
    done[3] = True
    before = gae(rewards, values, next_values, terminated, done, gamma=0.99, lam=0.95)
    for x in (rewards, values, next_values):
        x[4:] = garbage
    after = gae(rewards, values, next_values, terminated, done, gamma=0.99, lam=0.95)
    for a, b in zip(before, after, strict=True):
        assert torch.equal(a[:4], b[:4])
        assert not torch.equal(a[4:], b[4:])


def test_next_values_of_terminated_steps_are_never_read():
    rewards, values, next_values, terminated, done = chain(6)
    assert terminated.any()
    expected = gae(rewards, values, next_values, terminated, done, gamma=0.99, lam=0.95)
    next_values[terminated] = math.nan
    got = gae(rewards, values, next_values, terminated, done, gamma=0.99, lam=0.95)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def test_columns_are_independent_and_any_further_axes_will_do():
    rollout = chain(7, columns=6)
    whole, _ = gae(*rollout, gamma=0.99, lam=0.95)
    for column in range(6):
        alone, _ = gae(*(x[:, column] for x in rollout), gamma=0.99, lam=0.95)
        assert torch.equal(alone, whole[:, column])
    folded, _ = gae(*(x.reshape(-1, 2, 3) for x in rollout), gamma=0.99, lam=0.95)
    assert torch.equal(folded.reshape(-1, 6), whole)


def test_gae_leaves_its_arguments_alone():
    rollout = chain(8)
    copies = [x.clone() for x in rollout]
    gae(*rollout, gamma=0.99, lam=0.95)
    assert all(torch.equal(a, b) for a, b in zip(rollout, copies, strict=True))


def test_gae_refuses_shapes_that_would_broadcast():
    rewards, values, next_values, terminated, done = chain(9)
    with pytest.raises(ValueError, match="one shape"):
        gae(rewards, values[:, :1], next_values, terminated, done, gamma=0.99, lam=0.95)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(2, 40),
    mean=st.floats(-1e3, 1e3),
    scale=st.floats(1e-2, 1e3),
    shift=st.booleans(),
)
def test_whitened_data_has_variance_one(seed, n, mean, scale, shift):
    x = mean + scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=F64)
    y = whiten(x, shift_mean=shift)
    deviation = x.numpy().std()  # two samples may lie so close that the epsilon beside it is seen
    assert y.numpy().std() == pytest.approx(deviation / (deviation + 1e-8), rel=1e-9)
    assert y.numpy().mean() == pytest.approx(0.0 if shift else x.numpy().mean(), abs=1e-8)
    # An increasing affine map: the order of the samples stays.
    assert torch.equal(x.argsort(), y.argsort())


def test_whitening_does_not_see_shift_and_scale():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=F64)
    close(whiten(3 * x + 7), whiten(x), 1e-7)
    close(whiten(-x), -whiten(x))


def test_whitening_nothing_one_and_two():
    assert whiten(torch.empty(0)).shape == (0,)
    assert whiten(torch.tensor([5.0])).tolist() == [0.0]
    assert whiten(torch.tensor([5.0]), shift_mean=False).tolist() == [5.0]
    # mean 2, standard deviation 1 (population)
    assert whiten(torch.tensor([1.0, 3.0], dtype=F64)).tolist() == pytest.approx([-1.0, 1.0], abs=1e-7)
    assert whiten(torch.tensor([1.0, 3.0], dtype=F64), shift_mean=False).tolist() == pytest.approx([1.0, 3.0], abs=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("value", [0.0, 0.1, -7.7, 1e6 + 0.3])
@pytest.mark.parametrize("n", [2, 7, 1000, 12345])
def test_constant_data_has_no_scale_whatever_rounding_says(value, n, dtype):
    x = torch.full((n,), value, dtype=dtype)
    assert whiten(x).abs().max() <= 4 * torch.finfo(dtype).eps * abs(value)
    torch.testing.assert_close(whiten(x, shift_mean=False), x)


def test_small_variance_on_a_large_mean_is_not_taken_for_rounding():
    x = 1e3 + torch.tensor([-1e-2, 1e-2] * 10)
    assert whiten(x).abs().min() > 0.9


def test_a_weight_of_one_or_zero_is_presence_or_absence():
    x = torch.randn(20, generator=torch.Generator().manual_seed(1), dtype=F64)
    weight = (torch.arange(20) % 3 > 0).to(F64)
    real = weight > 0
    close(whiten(x, weight)[real], whiten(x[real]))
    close(whiten(x, weight, shift_mean=False)[real], whiten(x[real], shift_mean=False))


def test_a_weight_of_two_is_a_sample_seen_twice():
    x = torch.tensor([1.0, 2.0, 4.0, 9.0], dtype=F64)
    weight = torch.tensor([1.0, 2.0, 1.0, 2.0], dtype=F64)
    close(whiten(x, weight), whiten(x.repeat_interleave(weight.long()))[[0, 1, 3, 4]])


@pytest.mark.parametrize("garbage", [1e30, math.inf, math.nan])
@pytest.mark.parametrize("shift", [True, False])
def test_samples_of_weight_zero_are_not_seen(garbage, shift):
    x = torch.randn(10, generator=torch.Generator().manual_seed(2), dtype=F64)
    weight = torch.ones(10, dtype=F64)
    weight[[2, 7]] = 0
    real = weight > 0
    clean = whiten(x, weight, shift_mean=shift)
    x[~real] = garbage
    assert torch.equal(whiten(x, weight, shift_mean=shift)[real], clean[real])


def test_one_sample_of_positive_weight_has_no_scale():
    x = torch.tensor([3.0, math.nan, 8.0])
    weight = torch.tensor([0.0, 0.0, 0.7])
    assert whiten(x, weight)[2].item() == pytest.approx(0.0, abs=1e-6)
    assert whiten(x, weight, shift_mean=False)[2].item() == pytest.approx(8.0)
    assert whiten(x[[0, 2, 2]], torch.zeros(3)).tolist() == [3.0, 8.0, 8.0]
    # The sample that does not count is shifted by the same mean and not scaled either.
    assert whiten(torch.tensor([3.0, 3.0, 5.0]), torch.tensor([1.0, 1.0, 0.0])).tolist() == [0.0, 0.0, 2.0]


def test_rounding_is_not_blown_up_to_variance_one():
    x = torch.full((100,), 1e6)
    x[::3] = 1e6 + 0.0625  # the next number in single precision
    assert whiten(x).abs().max() < 0.1


@pytest.mark.parametrize("noise", [0.0, 1e-7])
@pytest.mark.parametrize("score", [0.3, 1000.1, 0.0])
def test_a_group_whose_scores_are_equal_but_for_rounding_has_no_advantage(score, noise):
    generator = torch.Generator().manual_seed(0)
    equal = score * (1 + noise * torch.rand(8, generator=generator))
    scores = torch.cat([equal, torch.tensor([0.0, 1.0] * 4)])
    for found in (leave_one_out(scores, 8), *(relative(scores, 8, scale) for scale in ("group", "batch", "off"))):
        assert found[:8].tolist() == [0.0] * 8
        assert found[8:].abs().min() > 0
