import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.objectives import Objective, clipped_surrogate, ppo_loss, value_loss

F64 = torch.float64


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def surrogate_of(ratio, advantage, **options):
    """Loss, gradient and statistics of samples with these ratios, old log-prob -1."""
    old = torch.full((len(ratio),), -1.0, dtype=F64)
    log_prob = (old + torch.tensor(ratio, dtype=F64).log()).requires_grad_()
    loss, statistics = clipped_surrogate(log_prob, old, torch.tensor(advantage, dtype=F64), **options)
    loss.backward()
    return loss.item(), log_prob.grad, statistics


# ratio, advantage, objective at clip 0.2, whether the clip takes the gradient away
TABLE = [
    (1.0, 2.0, 2.0, False),
    (1.0, -2.0, -2.0, False),
    (1.1, 2.0, 2.2, False),
    (1.5, 2.0, 2.4, True),  # min(3, 1.2 * 2): no more to be gained
    (1.5, -2.0, -3.0, False),  # min(-3, -2.4): a bad action made more likely is pulled back
    (0.5, 2.0, 1.0, False),  # min(1, 1.6): a good action made less likely is pulled back
    (0.5, -2.0, -1.6, True),  # min(-1, 0.8 * -2): no more to be gained
    (0.9, -2.0, -1.8, False),
]


@pytest.mark.parametrize(("ratio", "advantage", "objective", "flat"), TABLE)
def test_the_clipped_objective_by_hand(ratio, advantage, objective, flat):
    loss, gradient, _ = surrogate_of([ratio], [advantage], clip=0.2)
    assert loss == pytest.approx(-objective, rel=1e-12)
    # d(ratio * A)/d log_prob = ratio * A
    if flat:
        assert gradient.item() == 0.0
    else:
        assert gradient.item() == pytest.approx(-ratio * advantage, rel=1e-12)


def test_the_loss_is_the_mean_over_samples_and_statistics_count_them():
    ratios, advantages, objectives, flat = (list(x) for x in zip(*TABLE, strict=True))
    loss, gradient, statistics = surrogate_of(ratios, advantages, clip=0.2)
    assert loss == pytest.approx(-sum(objectives) / len(TABLE), rel=1e-12)
    assert (gradient == 0).tolist() == flat
    assert statistics.clip_fraction.item() == 4 / 8  # outside [0.8, 1.2], whichever side counts
    assert statistics.ratio_deviation.item() == pytest.approx(0.5)
    expected = sum(r - 1 - math.log(r) for r in ratios) / len(TABLE)
    assert statistics.approx_kl.item() == pytest.approx(expected, rel=1e-12)
    assert not any(x.requires_grad for x in statistics)


def test_without_a_clip_the_ratio_is_free():
    ratios, advantages, _, _ = (list(x) for x in zip(*TABLE, strict=True))
    loss, gradient, statistics = surrogate_of(ratios, advantages, clip=None)
    gains = [r * a for r, a in zip(ratios, advantages, strict=True)]
    assert loss == pytest.approx(-sum(gains) / 8)
    assert gradient.tolist() == pytest.approx([-g / 8 for g in gains])
    assert statistics.clip_fraction.item() == 0.0


@pytest.mark.parametrize("clip", [0.2, 1e-3, None])
def test_at_ratio_one_the_gradient_is_the_policy_gradient(clip):
    parameters, features, advantages = normal(3, 4).requires_grad_(), normal(10, 3, seed=1), normal(10, seed=2)
    action = torch.randint(4, (10,), generator=torch.Generator().manual_seed(0))
    log_prob = torch.distributions.Categorical(logits=features @ parameters).log_prob(action)
    loss, statistics = clipped_surrogate(log_prob, log_prob.detach(), advantages, clip=clip)
    (ours,) = torch.autograd.grad(loss, parameters, retain_graph=True)
    (theirs,) = torch.autograd.grad(-(log_prob * advantages).mean(), parameters)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert statistics.ratio_deviation == statistics.approx_kl == statistics.clip_fraction == 0


@settings(deadline=None, max_examples=60)
@given(ratio=st.floats(0.01, 50), advantage=st.floats(-5, 5), clip=st.floats(0.01, 0.9))
def test_the_clip_is_pessimistic_and_changes_nothing_inside_the_interval(ratio, advantage, clip):
    clipped, gradient, _ = surrogate_of([ratio], [advantage], clip=clip)
    free, free_gradient, _ = surrogate_of([ratio], [advantage], clip=None)
    assert clipped >= free - 1e-12
    if 1 - clip < ratio < 1 + clip:
        assert clipped == free
        assert gradient.item() == pytest.approx(free_gradient.item(), rel=1e-12)


def test_the_dual_clip_bounds_what_a_bad_action_may_cost():
    # A = -1, c = 3: the objective is max(min(ratio A, clipped A), -3)
    for ratio, objective, flat in ((2.0, -2.0, False), (5.0, -3.0, True), (0.5, -0.8, True)):
        loss, gradient, _ = surrogate_of([ratio], [-1.0], clip=0.2, dual_clip=3.0)
        assert loss == pytest.approx(-objective)
        assert (gradient.item() == 0.0) == flat
    # Good actions are not its business.
    for ratio in (0.1, 1.0, 5.0):
        assert surrogate_of([ratio], [1.0], clip=0.2, dual_clip=3.0)[0] == surrogate_of([ratio], [1.0], clip=0.2)[0]
    assert surrogate_of([5.0], [-1.0], clip=None, dual_clip=3.0)[0] == pytest.approx(3.0)


def test_weights_weigh():
    ratios, advantages, objectives, _ = (list(x) for x in zip(*TABLE, strict=True))
    weight = torch.tensor([0.0, 1, 2, 0, 1, 3, 0.5, 1], dtype=F64)
    loss, gradient, statistics = surrogate_of(ratios, advantages, clip=0.2, weight=weight)
    total = weight.sum().item()
    assert loss == pytest.approx(-sum(w * x for w, x in zip(weight.tolist(), objectives, strict=True)) / total)
    assert (gradient[weight == 0] == 0).all()
    assert statistics.clip_fraction.item() == pytest.approx((1 + 3 + 0.5) / total)


def test_the_largest_deviation_is_that_of_samples_that_count():
    _, _, statistics = surrogate_of([1.1, 9.0, 0.7], [1.0] * 3, clip=0.2, weight=torch.tensor([1.0, 0, 1]))
    assert statistics.ratio_deviation.item() == pytest.approx(0.3)


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf, -1e4, 1e30])
@pytest.mark.parametrize("objective", [Objective(), Objective(clip=None, dual_clip=3.0), Objective(value_clip=0.1)])
def test_garbage_in_samples_of_weight_zero_is_not_seen(garbage, objective):
    n, weight = 6, torch.tensor([1.0, 1, 0, 1, 0, 2])

    def run(fill):
        leaves = [(0.1 * normal(n, seed=i)).float().requires_grad_() for i in range(3)]
        data = {
            name: (0.1 * normal(n, seed=10 + i)).float()
            for i, name in enumerate(("old_log_prob", "advantages", "returns", "old_values"))
        }
        if fill is not None:
            for x in data.values():
                x[weight == 0] = fill
        loss, statistics = ppo_loss(*leaves, **data, weight=weight, objective=objective)
        loss.backward()
        return [loss, *statistics.values(), *(x.grad for x in leaves)]

    for clean, dirty in zip(run(None), run(garbage), strict=True):
        assert torch.equal(clean, dirty)


def minibatch(n=12, seed=0):
    data = {
        "log_prob": 0.3 * normal(n, seed=seed),
        "entropy": normal(n, seed=seed + 1),
        "values": normal(n, seed=seed + 2),
        "old_log_prob": 0.3 * normal(n, seed=seed + 3),
        "advantages": normal(n, seed=seed + 4),
        "returns": normal(n, seed=seed + 5),
        "old_values": normal(n, seed=seed + 6),
        "weight": normal(n, seed=seed + 7).relu(),
    }
    data["weight"][0] = 1.0
    return data


OBJECTIVE = Objective(clip=0.2, value_coefficient=0.7, entropy_coefficient=0.03, value_clip=0.5, dual_clip=2.0)


def gradients(data, total_weight=None, objective=OBJECTIVE):
    data = dict(data)
    leaves = [data.pop(name).clone().requires_grad_() for name in ("log_prob", "entropy", "values")]
    loss, statistics = ppo_loss(*leaves, **data, objective=objective, total_weight=total_weight)
    loss.backward()
    return loss.detach(), [x.grad for x in leaves], statistics


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 11))
def test_parts_of_a_minibatch_add_up_to_its_gradient(seed, cut):
    data = minibatch(seed=seed)
    loss, whole, statistics = gradients(data)
    shares = [
        gradients({k: x[part] for k, x in data.items()}, data["weight"].sum())
        for part in (slice(0, cut), slice(cut, None))
    ]
    torch.testing.assert_close(shares[0][0] + shares[1][0], loss, rtol=1e-12, atol=1e-12)
    for i, gradient in enumerate(whole):
        torch.testing.assert_close(torch.cat([s[1][i] for s in shares]), gradient, rtol=1e-12, atol=1e-14)
    for name in ("policy_loss", "value_loss", "entropy", "approx_kl", "clip_fraction"):
        together = sum(s[2][name] for s in shares)
        torch.testing.assert_close(together, statistics[name], rtol=1e-12, atol=1e-12)


def test_unweighted_parts_add_up_as_well():
    log_prob, old, advantages = normal(10).requires_grad_(), normal(10, seed=1), normal(10, seed=2)
    values, returns = normal(10, seed=3).requires_grad_(), normal(10, seed=4)

    def loss(part, total):
        surrogate, _ = clipped_surrogate(log_prob[part], old[part], advantages[part], clip=0.2, total_weight=total)
        return surrogate + value_loss(values[part], returns[part], total_weight=total)

    whole = torch.autograd.grad(loss(slice(None), None), (log_prob, values))
    parts = torch.autograd.grad(loss(slice(0, 3), 10) + loss(slice(3, None), 10), (log_prob, values))
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-14)


def test_the_value_loss_is_half_the_mean_square():
    values, returns = normal(20), normal(20, seed=1)
    expected = torch.nn.functional.mse_loss(values, returns) / 2
    torch.testing.assert_close(value_loss(values, returns), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("value", "target", "half_square", "slope"),
    [
        # old value 1, clip 0.5: the clipped value lies in [0.5, 1.5]
        (1.2, 3.0, 1.62, -1.8),  # inside: (1.2 - 3)^2 / 2
        (2.0, 0.0, 2.0, 2.0),  # max(2^2, 1.5^2) / 2: moved away from the target, is pulled back
        (2.0, 3.0, 1.125, 0.0),  # max(1^2, 1.5^2) / 2: moved towards it, far enough
        (0.0, -1.0, 1.125, 0.0),  # max(1^2, 1.5^2) / 2
    ],
)
def test_the_clipped_value_loss_by_hand(value, target, half_square, slope):
    values = torch.tensor([value], dtype=F64, requires_grad=True)
    old = torch.ones(1, dtype=F64)
    loss = value_loss(values, torch.tensor([target], dtype=F64), old_values=old, clip=0.5)
    loss.backward()
    assert loss.item() == pytest.approx(half_square)
    assert values.grad.item() == pytest.approx(slope)


def test_a_wide_value_clip_is_none_and_one_without_old_values_is_refused():
    values, returns, old = normal(5), normal(5, seed=1), normal(5, seed=2)
    wide = value_loss(values, returns, old_values=old, clip=100.0)
    torch.testing.assert_close(wide, value_loss(values, returns), rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match="old_values"):
        value_loss(values, returns, clip=0.2)


def test_the_total_loss_by_hand():
    one = torch.ones(2, dtype=F64)
    # ratio 1.5 and 1, A = 2: objective (2.4 + 2) / 2 = 2.2; value error 1 and 3: (1 + 9) / 2 / 2 = 2.5; entropy 0.5
    loss, statistics = ppo_loss(
        torch.tensor([math.log(1.5), 0.0], dtype=F64),
        torch.tensor([0.2, 0.8], dtype=F64),
        torch.tensor([1.0, -3.0], dtype=F64),
        old_log_prob=0 * one,
        advantages=2 * one,
        returns=0 * one,
        old_values=0 * one,
        weight=one,
        objective=Objective(clip=0.2, value_coefficient=0.5, entropy_coefficient=0.1),
    )
    assert loss.item() == pytest.approx(-2.2 + 0.5 * 2.5 - 0.1 * 0.5)
    assert statistics["policy_loss"].item() == pytest.approx(-2.2)
    assert statistics["value_loss"].item() == pytest.approx(2.5)
    assert statistics["entropy"].item() == pytest.approx(0.5)
    assert statistics["clip_fraction"].item() == 0.5


def test_the_total_loss_with_every_clip_by_hand():
    def number(x):
        return torch.tensor([x], dtype=F64)

    # ratio 5, A = -1: max(-5, 2 * -1) = -2. Value 2, old 1, target 3: max(1^2, (1.5 - 3)^2) / 2 = 1.125.
    loss, statistics = ppo_loss(
        number(math.log(5.0)),
        number(0.5),
        number(2.0),
        old_log_prob=number(0.0),
        advantages=number(-1.0),
        returns=number(3.0),
        old_values=number(1.0),
        weight=number(1.0),
        objective=OBJECTIVE,
    )
    assert statistics["policy_loss"].item() == pytest.approx(2.0)
    assert statistics["value_loss"].item() == pytest.approx(1.125)
    assert loss.item() == pytest.approx(2.0 + 0.7 * 1.125 - 0.03 * 0.5)


def test_each_term_reaches_only_what_it_is_about():
    data = minibatch()
    share = data["weight"] / data["weight"].sum()
    _, (_, by_entropy, by_value), _ = gradients(data, objective=Objective(entropy_coefficient=0.03))
    torch.testing.assert_close(by_entropy, -0.03 * share)
    torch.testing.assert_close(by_value, 0.5 * share * (data["values"] - data["returns"]))


def test_a_policy_without_a_critic_has_no_value_loss():
    data = minibatch()
    data["values"] = None
    loss, statistics = ppo_loss(**data, objective=Objective())
    assert statistics["value_loss"].item() == 0.0
    assert loss.item() == statistics["policy_loss"].item()
