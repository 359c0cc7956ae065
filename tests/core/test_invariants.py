import math

import pytest
import torch

from proximo.core.batch import Batch
from proximo.core.invariants import (
    InvariantError,
    check_batch,
    check_first_ratio,
    gaussian_ratio_tolerance,
    ratio_tolerance,
)


def batch(n=4, **changes):
    tensors = {name: torch.ones(n) for name in ("log_prob", "value", "advantages", "returns", "weight")}
    return Batch(inputs={}, action=torch.zeros(n), **{**tensors, **changes})


def test_a_sound_batch_passes():
    check_batch(batch())
    check_batch(batch(weight=torch.tensor([0.0, 0.5, 0.0, 3.0])))


@pytest.mark.parametrize("name", ["log_prob", "value", "advantages", "returns"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_named_with_its_sample(name, bad):
    x = torch.ones(4)
    x[2] = bad
    with pytest.raises(InvariantError, match=rf"not-finite: {name} of sample \[2\]"):
        check_batch(batch(**{name: x}))
    check_batch(batch(**{name: x}, weight=torch.tensor([1.0, 1, 0, 1])))


def test_the_sample_of_a_sequence_is_named_by_row_and_step():
    x = torch.ones(3, 5)
    x[1, 4] = math.nan
    tensors = {name: torch.ones(3, 5) for name in ("log_prob", "value", "returns", "weight")}
    with pytest.raises(InvariantError, match=r"advantages of sample \[1, 4\]"):
        check_batch(Batch(inputs={}, action=torch.zeros(3, 5), advantages=x, **tensors))


def test_opposite_infinities_do_not_cancel():
    with pytest.raises(InvariantError, match=r"sample \[0\]"):
        check_batch(batch(returns=torch.tensor([math.inf, -math.inf, 0.0, 0.0])))


@pytest.mark.parametrize("weight", [[0.0, 0, 0, 0], [1.0, -1, 1, 1], [1.0, math.nan, 1, 1]])
def test_weights_must_weigh(weight):
    with pytest.raises(InvariantError, match="weights"):
        check_batch(batch(weight=torch.tensor(weight)))


def test_the_first_ratio_may_be_off_by_rounding_only():
    for dtype, rounding, wrong in ((torch.float32, 1e-3, 2e-3), (torch.float64, 1e-12, 1e-11)):
        assert rounding < ratio_tolerance(dtype) < wrong
        check_first_ratio(rounding, ratio_tolerance(dtype))
        for deviation in (wrong, math.inf, math.nan):
            with pytest.raises(InvariantError, match="ratio-not-one"):
                check_first_ratio(deviation, ratio_tolerance(dtype))


def summed_in_two_orders(width, actions, size, std, samples=400):
    """max |ratio - 1| of a Gaussian whose mean is one long product, added up in two orders in float32."""
    generator = torch.Generator().manual_seed(width)
    features = torch.randn(samples, width, generator=generator)
    weights = torch.randn(width, actions, generator=generator)
    weights *= size / float((features @ weights).abs().max())
    terms = (features.unsqueeze(-1) * weights).unbind(1)
    forth, back = sum(terms), sum(reversed(terms))  # torch's own sums round once
    action = forth + std * torch.randn(samples, actions, generator=generator)
    first, second = (-0.5 * (((action - mean) / std).double() ** 2).sum(1) for mean in (forth, back))
    return float((second - first).expm1().abs().max()), float(forth.abs().max())


@pytest.mark.parametrize(("width", "actions"), [(64, 1), (256, 17), (1024, 64)])
@pytest.mark.parametrize(("size", "std"), [(3.0, 1.0), (3.0, 0.0067), (30.0, 0.0067), (300.0, 0.02)])
def test_rounding_is_not_taken_for_another_policy_where_the_deviation_is_small(width, actions, size, std):
    deviation, mean = summed_in_two_orders(width, actions, size, std)
    tolerance = gaussian_ratio_tolerance(torch.float32, width, mean, std)
    assert deviation > 0
    check_first_ratio(deviation, tolerance)
    # One sample's mean that is off by a tenth of a deviation, as no rounding here explains but at the very end.
    wrong = math.expm1(0.1)
    if size / std < 1000:
        with pytest.raises(InvariantError, match="ratio-not-one"):
            check_first_ratio(wrong, tolerance)


def test_a_usual_policy_is_held_to_the_same_limit_as_ever():
    assert gaussian_ratio_tolerance(torch.float32, 256, 5.0, 0.2) == ratio_tolerance(torch.float32)
    assert gaussian_ratio_tolerance(torch.float64, 256, 30.0, 0.0067) < 1e-9
