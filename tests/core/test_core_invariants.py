import math

import pytest
import torch

from proximo.core.batch import Batch
from proximo.core.invariants import InvariantError, check_batch, check_first_ratio, ratio_tolerance


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
