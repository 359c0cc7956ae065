"""Where samples sit, of a policy whose ratios are known."""

import math

import pytest
import torch
from torch import nn

from proximo.core.batch import Batch, Evaluation
from proximo.lab.clip_range import Looked, clamped, look

RATIOS = torch.tensor([0.8, 1.2, 1.0, 0.8, 1.2, 1.0], dtype=torch.float64)
ADVANTAGES = torch.tensor([1.0, 2.0, 3.0, -4.0, -5.0, -6.0], dtype=torch.float64)
ASTRAY = torch.tensor([True, False, False, False, True, False])
CUT = torch.tensor([False, True, False, True, False, False])


class Table(nn.Module):
    """One weight for each sample: its log-prob."""

    def __init__(self, ratios):
        super().__init__()
        self.log_prob = nn.Parameter(ratios.log())

    def evaluate(self, batch):
        return Evaluation(self.log_prob, torch.zeros(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64))


def batch():
    nothing = torch.zeros(6, dtype=torch.float64)
    columns = {"log_prob": nothing, "value": nothing, "returns": nothing, "weight": torch.ones_like(nothing)}
    return Batch(inputs={}, action=nothing, advantages=ADVANTAGES, **columns)


def test_each_sample_is_found_where_it_was_put():
    found = look(Table(RATIOS), batch(), 0.1)
    third = pytest.approx(1 / 3)
    assert found["cut"] == [third, third]
    assert found["astray"] == [third, third]
    assert found["outside"] == [pytest.approx(2 / 3)] * 2


def test_plain_clipping_leaves_out_what_went_astray_and_nothing_else():
    """The gradient of a sample is -r A / 6 as long as it counts."""
    each = -RATIOS * ADVANTAGES / 6
    expected = each[ASTRAY].norm() / each[~CUT].norm()
    assert look(Table(RATIOS), batch(), 0.1)["missing"] == pytest.approx(float(expected))
    assert look(Table(torch.ones_like(RATIOS)), batch(), 0.1)["missing"] == 0.0


@pytest.mark.parametrize("minimum", [True, False])
def test_the_loss_is_that_of_its_formula(minimum):
    policy = Table(RATIOS)
    algorithm = Looked(clip=0.1, minimum=minimum, value_coefficient=0.0)
    loss, statistics = algorithm.loss(policy.evaluate(batch()), batch(), 0.0, policy)
    plain = RATIOS.clamp(0.9, 1.1) * ADVANTAGES
    objective = torch.minimum(RATIOS * ADVANTAGES, plain) if minimum else plain
    torch.testing.assert_close(loss, -objective.mean())
    loss.backward()
    silent = policy.log_prob.grad == 0
    assert torch.equal(silent, CUT if minimum else CUT | ASTRAY)
    assert float(statistics["ratio_deviation"]) == pytest.approx(0.2), "the policy's, not the clamped one's"


def test_a_clamped_ratio_lies_within_the_range():
    ratio = clamped(torch.tensor([-1.0, 0.0, 1.0]), torch.zeros(3), 0.2).exp()
    torch.testing.assert_close(ratio, torch.tensor([0.8, 1.0, 1.2]))
    assert math.isclose(float(ratio[1]), 1.0)
