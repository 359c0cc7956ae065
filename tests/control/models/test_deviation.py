"""The deviation of actions stays within its range, and comes back from a bound as soon as the gradient says so."""

from dataclasses import replace

import control_tasks
import pytest
import torch
from control_runs import running

RANGE = (-1.0, 0.5)
KINDS = ["closed form", "autograd"]


def pushed(kind, coefficient, **network):
    """A started training in which nothing but the entropy bonus moves the deviation: every reward is 1."""
    return running(
        control_tasks.probe,
        options={"number": 1, "actions": "box"},
        closed_form=kind == "closed form",
        network={"log_std_range": RANGE, "log_std": 0.0, **network},
        update={"entropy_coefficient": coefficient, "normalize_advantages": "off", "max_grad_norm": None},
        learning_rate=0.05,
        gamma=0.0,
        lam=0.0,
    )


def bonus(training, coefficient):
    training.algorithm = replace(training.algorithm, entropy_coefficient=coefficient)


@pytest.mark.parametrize("side", [-1.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_deviation_that_was_pushed_to_its_bound_comes_back(kind, side):
    bound = RANGE[0] if side < 0 else RANGE[1]
    with pushed(kind, 5.0 * side) as training:
        assert (training.closed_form is not None) == (kind == "closed form")
        seen = [training.iterate() for _ in range(8)]
        assert training.policy.log_std.item() == bound
        assert [row["std_stuck"] for row in (seen[0], seen[-1])] == [0, 1]
        bonus(training, -5.0 * side)
        # The momentum still points outwards; after at most 1 / (1 - 0.9) = 10 steps, two iterations, it does not.
        rows = [training.iterate() for _ in range(4)]
        assert side * training.policy.log_std.item() < side * bound - 0.1
        assert rows[-1]["std_stuck"] == 0


def test_a_checkpoint_with_a_deviation_out_of_its_range_can_still_learn():
    with pushed("closed form", 5.0) as training:
        tensors, state = training.state()
        tensors["policy/log_std"] = torch.tensor([-7.0])
        training.load(tensors, state)
        assert training.policy.log_std.item() == RANGE[0]
        training.restart()
        training.iterate()
        assert training.policy.log_std.item() > RANGE[0]


def test_a_deviation_whose_bounds_are_one_value_is_meant_to_stand():
    with pushed("closed form", 5.0, log_std_range=(0.0, 0.0)) as training:
        assert "std_stuck" not in training.iterate()
        assert training.policy.log_std.item() == 0.0
