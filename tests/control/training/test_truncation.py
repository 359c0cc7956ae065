"""What a cut episode is worth, exactly or as a setting says, on a ring of cells with values in closed form."""

import control_tasks
import numpy as np
import pytest
from control_runs import running, trained, value
from records import control, seen

from proximo.control.environments import make_environments
from proximo.errors import UserError

GAMMA, CELLS, CUT = 0.7, 6, 1 / control_tasks.RingVector.limit
PAID = np.eye(CELLS)[0]
AHEAD = np.roll(np.eye(CELLS), 1, axis=1)


def solved(following):
    """Values V of the cells where V = r + γ F V."""
    return np.linalg.solve(np.eye(CELLS) - GAMMA * following, PAID)


TRUE = solved(AHEAD)
PREVIOUS = solved((1 - CUT) * AHEAD + CUT * np.eye(CELLS))  # each cell is cut in one of five visits


@pytest.mark.parametrize(
    ("truncation", "key", "expected", "closed_form"),
    [
        ("exact", "final_obs", TRUE, True),
        ("exact", "final_observation", TRUE, True),  # ManiSkill's name for it
        ("previous", "final_obs", PREVIOUS, True),
        ("previous", "", PREVIOUS, False),
        ("drop", "", TRUE, True),
    ],
)
def test_values_are_those_of_the_chain_that_the_setting_makes(truncation, key, expected, closed_form):
    plan = {
        "gamma": GAMMA,
        "lam": 0.0,
        "count": 30,
        "length": 8,
        "network": {"hidden": ()},
        "closed_form": closed_form,
        "update": {"minibatch_size": None},
    }
    plan |= {"steps": 60 * 240, "learning_rate": "0.03 -> 0", "truncation": truncation, "options": {"key": key}}
    training = trained(control_tasks.ring_vector, 60, **plan)
    assert value(training, np.arange(CELLS)) == pytest.approx(expected, abs=0.01)
    assert np.abs(TRUE - PREVIOUS).max() > 0.1, "a bias too small to be told from nothing"


def test_environments_that_hide_the_end_are_refused_unless_a_setting_allows_it():
    with (
        pytest.raises(UserError, match=r"final_obs.*truncation = previous .* or drop"),
        running(control_tasks.ring_vector, count=30, options={"key": ""}) as training,
    ):
        training.iterate()
    hidden = make_environments(lambda: control_tasks.RingVector(""), 30)
    hidden.leave_out_finals()
    hidden.reset(range(30))
    assert sum(hidden.step(np.zeros(30, np.int64)).truncated.sum() for _ in range(5)) == 30


def test_a_memory_and_resets_in_a_step_of_their_own_are_cut_by_the_same_rule():
    network = {"memory": "gru", "memory_size": 8}
    settings = {"options": {"max_episode_steps": 5}, "backend": "envpool", "network": network}
    with running("CartPole-v1", truncation="drop", **settings) as training:
        rollout = training.collect()
        batch = training.estimate(rollout)
    cut = (rollout.truncated & rollout.valid).T
    assert cut.sum() > 8
    assert np.array_equal(batch.weight.numpy() == 0, cut | ~rollout.valid.T)
    assert np.abs(batch.advantages.numpy()[cut]).max() < 1e-5


def test_where_every_step_is_cut_nothing_is_left_to_learn_from_and_that_is_said():
    with (
        running(control_tasks.steady, options={"limit": 1}, truncation="drop") as training,
        pytest.raises(UserError, match=r"each of the 128 steps of this rollout is one: set truncation = previous"),
    ):
        training.iterate()


def test_the_doctor_says_that_ends_are_approximated():
    assert seen(control(lambda i: {"truncations_approximated": 3}, truncation="previous")) == [("P063", "amber")]
    assert seen(control(lambda i: {"truncations_approximated": 0}, truncation="previous")) == []
    assert seen(control(truncation="exact")) == []
