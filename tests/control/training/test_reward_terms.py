"""Parts of a reward and logs of an environment reach the metrics, and the doctor names what is wrong in them."""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from control_runs import running
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from records import control, seen

from proximo.control.environments import make_environments
from proximo.control.environments.terms import Means, from_infos


class Paying(gymnasium.Env):
    """Pays 2 and costs the step's number; episodes of 3 steps; says text and arrays that are no parts."""

    observation_space, action_space = spaces.Box(-1, 1, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return np.zeros(1, np.float32), {"reward_goal": 99.0}

    def step(self, action):
        self.now += 1
        info = {"reward_goal": 2.0, "reward_cost": np.float64(-self.now), "reward_text": "no", "rewards": 7.0}
        return np.zeros(1, np.float32), 2.0 - self.now, self.now == 3, False, info


def paying():
    return Paying()


def vector(mode):
    return lambda: SyncVectorEnv([Paying] * 8, autoreset_mode=mode)


@pytest.mark.parametrize(
    "source", [paying, *map(vector, AutoresetMode)], ids=["single", *(m.name for m in AutoresetMode)]
)
def test_parts_sum_to_the_reward_in_every_autoreset_mode(source):
    with running(source, length=12, update={"minibatch_size": 96}) as training:
        row = training.iterate()
    assert {name for name in row if "/" in name and not name.startswith("seconds")} == {"term/goal", "term/cost"}
    assert row["term/goal"] == 2
    assert row["term/cost"] == -2
    assert row["term/goal"] + row["term/cost"] == pytest.approx(row["reward_mean"], abs=1e-12)


def test_keys_of_infos_need_be_no_texts_and_what_has_no_name_is_left_out():
    """Environments number their agents; and a batch's infos come as they are."""
    one = np.ones(2)
    infos = {0: one, (1, 2): "x", None: 3, "reward_": one, "reward_goal": one, "final_info": {7: one}}
    assert [*from_infos(infos, 2)] == ["term/goal"]
    assert from_infos({"log": {3: 1.0, "/": 2.0, "": 3.0, "speed": 4.0}}, 2) == {"log/speed": 4.0}


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_parts_of_a_reward_that_is_paid_for_several_steps_sum_to_it(backend):
    # Episodes of 3 steps in steps of 2: the second one is 1 step long.
    environments = make_environments(paying, 2, backend=backend, action_repeat=2)
    try:
        environments.reset([0, 1])
        steps = [environments.step(np.zeros(2, np.int64)) for _ in range(2)]
    finally:
        environments.close()
    assert [step.reward.tolist() for step in steps] == [[1.0, 1.0], [-1.0, -1.0]]
    assert [step.said["term/goal"].tolist() for step in steps] == [[4.0, 4.0], [2.0, 2.0]]
    assert [step.said["term/cost"].tolist() for step in steps] == [[-3.0, -3.0], [-3.0, -3.0]]


def test_a_real_robots_parts_are_recorded_and_sum_to_what_it_is_paid():
    settings = {"count": 2, "length": 16, "observations": {"actor": ("state",)}, "update": {"minibatch_size": None}}
    with running("MuJoCoPlayground/Go1JoystickFlatTerrain-v1", **settings) as training:
        row = training.iterate()
    terms = {name: x for name, x in row.items() if name.startswith("term/")}
    assert len(terms) == 16
    assert "term/tracking_lin_vel" in terms
    with running("Ant-v5", count=2, update={"minibatch_size": None}) as training:
        row = training.iterate()
    paid = sum(x for name, x in row.items() if name.startswith("term/"))
    assert paid == pytest.approx(row["reward_mean"], abs=1e-5)


def test_what_is_logged_keeps_its_name_and_returns_of_gymnasium_are_left_out():
    log = {"/reward/tracking": 3.0, "Episode_Reward/air": torch.tensor(2.0), "rew_x": 1, "Curriculum/level": [1.0, 3.0]}
    means = Means()
    means.add(0, from_infos({"log": log}, 2))
    means.add(1, from_infos({"episode": {"r": 5.0, "l": 6.0, "t": 7.0, "_r": True, "word": "no"}}, 2))
    expected = {
        "term/reward/tracking": 3.0,
        "term/Episode_Reward/air": 2.0,
        "term/rew_x": 1.0,
        "log/Curriculum/level": 2.0,
    }
    assert means.read(np.ones((2, 2), bool)) == expected
    assert means.read(np.ones((2, 2), bool)) == {}


def test_rows_that_report_a_reset_count_for_nothing():
    means = Means()
    means.add(0, {"term/a": np.array([1.0, 100.0])})
    means.add(1, {"term/a": torch.tensor([2.0, np.nan])})
    assert means.read(np.array([[True, False], [True, True]])) == {"term/a": 1.5}


def test_an_environment_that_tells_nothing_counts_for_nothing():
    means = Means()
    means.add(0, from_infos({"reward_a": np.array([1.0, 0.0]), "_reward_a": np.array([True, False])}, 2))
    assert means.read(np.ones((1, 2), bool)) == {"term/a": 1.0}


def parts(**courses):
    """A sound run of 40 iterations whose reward has these parts."""
    return control(lambda i: {f"term/{name}": course(i) for name, course in courses.items()})


def steady(value):
    return lambda i: value


SOUND = {"track": steady(1.0), "alive": steady(0.5), "energy": steady(-0.2), "slip": steady(-0.1)}


@pytest.mark.parametrize(
    ("courses", "expected"),
    [
        (SOUND, []),
        ({**SOUND, "slip": lambda i: -0.1 if i != 30 else -4.0}, []),  # 40 times
        ({**SOUND, "slip": lambda i: -0.1 if i != 30 else -6.0}, [("P062", "red")]),
        ({**SOUND, "slip": lambda i: -0.001 if i != 30 else -0.1}, []),  # a hundred times, and still small
        ({**SOUND, "track": lambda i: 1e-3 * 1.2**i}, []),  # what is learnt grows too
        ({**SOUND, "track": steady(16.0)}, [("P062", "amber")]),  # of 16.8
        ({**SOUND, "track": steady(15.0)}, []),
        ({"forward": steady(5.0), "ctrl": steady(-0.01)}, []),  # a goal and its price
        ({**SOUND, "impact": steady(0.0)}, [("P062", "amber")]),
        ({**SOUND, "impact": lambda i: -0.01 * (i == 7)}, []),
    ],
)
def test_the_doctor_names_a_part_that_explodes_decides_alone_or_never_acts(courses, expected):
    assert [finding for finding in seen(parts(**courses)) if finding[0] == "P062"] == expected


@pytest.mark.parametrize(
    ("environment", "named"),
    [
        ("Ant-v4", False),
        ("MuJoCoPlayground/Go1JoystickFlatTerrain-v1", False),  # of EnvPool
        ("robots:my_ant", True),
        ("MyAnt-v0", True),
    ],
)
def test_a_part_that_never_acts_is_named_only_where_somebody_can_mend_it(environment, named):
    run = parts(**SOUND, impact=steady(0.0))
    run = replace(run, config={**run.config, "environment": environment})
    assert [finding for finding in seen(run) if finding[0] == "P062"] == [("P062", "amber")] * named


def test_terms_of_tensors_stay_tensors_and_the_step_that_ended_episodes_tells_all_of_them():
    now, final = torch.tensor([5.0, 0.0]), torch.tensor([5.0, 7.0])  # the second row has been reset
    told = from_infos({"reward_a": now, "final_info": {"reward_a": final}}, 2)
    assert torch.equal(told["term/a"], final)
