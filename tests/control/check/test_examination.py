"""Environments with one mistake each, examined with random actions; and sound ones, which are left alone."""

import functools
import json

import control_tasks as tasks
import gymnasium
import numpy as np
import pytest
from clocks import steady
from command_lines import HERE
from gymnasium import spaces

from proximo.cli.main import main
from proximo.control.check import report
from proximo.control.check.explore import examine, random_actions
from proximo.control.check.report import facts, findings
from proximo.control.spaces.actions import ActionSpec


@pytest.fixture(autouse=True)
def _steady_clock(monkeypatch):
    steady(monkeypatch)


class Faulty(gymnasium.Env):
    """Five numbers of size 1, episodes of 20 to 40 steps, rewards of size 1; and what `fault` says."""

    observation_space = spaces.Box(-np.inf, np.inf, (5,), np.float32)

    def __init__(self, fault=""):
        self.fault, self.total = fault, 0
        high = 1e4 if fault == "bounds" else 1.0
        self.action_space = spaces.Box(-high, high, (2,), np.float32)
        self.unseeded = np.random.default_rng()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now, self.limit = 0, int(self.np_random.integers(20, 40))
        return self.observe(), {}

    def observe(self):
        x = self.np_random.normal(size=5)
        if self.fault == "constant":
            x[3] = 7.0
        if self.fault == "large":
            x[1] = 1e5 * x[1]
        if self.fault == "leak":
            x[0] += 1e-3 * self.total
        if self.fault == "unseeded":
            x[2] = self.unseeded.normal()
        return x.astype(np.float32)

    def step(self, action):
        self.now += 1
        self.total += 1
        limit = {"at once": 1, "clock": 25}.get(self.fault, self.limit)
        over = self.now >= limit and self.fault != "endless"
        reward = {"no reward": 0.0, "large reward": 1e5}.get(self.fault, 1.0) * float(self.np_random.normal())
        return self.observe(), reward, over, False, {}


class Counted(gymnasium.Env):
    """A choice of 500 states, switches, and a number; episodes of ten random states."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict(
        {
            "state": spaces.Discrete(500, start=1000),
            "pair": spaces.MultiDiscrete([300, 400]),
            "lamps": spaces.MultiBinary(2),
            "number": spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }
    )

    def __init__(self, size=1.0):
        self.size = size

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.observe(), {}

    def observe(self):
        return {
            "state": int(self.np_random.integers(1000, 1500)),
            "pair": self.np_random.integers(0, [300, 400]),
            "lamps": self.np_random.integers(0, 2, 2).astype(np.int8),
            "number": (self.size * self.np_random.normal(size=1)).astype(np.float32),
        }

    def step(self, action):
        self.now += 1
        over = self.np_random.random() < 0.1
        return self.observe(), float(self.np_random.normal()), bool(over), False, {}


def seen(source, steps=300):
    return [f.code.number for f in findings(examine(source, steps=steps))]


@pytest.mark.parametrize(
    ("fault", "numbers"),
    [
        ("", []),
        ("endless", ["E001"]),
        ("large reward", ["E002"]),
        ("constant", ["E003"]),
        ("large", ["E004"]),
        ("unseeded", ["E005"]),
        ("leak", ["E006"]),
        ("bounds", ["E007"]),
        ("clock", ["E008"]),
        ("no reward", ["E010"]),
        ("at once", ["E011"]),
    ],
)
def test_one_fault_is_one_finding(fault, numbers):
    steps = 1000 if fault == "endless" else 300  # in fewer, it is not known whether an episode will end
    assert seen(lambda: Faulty(fault), steps) == numbers


def test_an_environment_of_400_steps_a_second_is_called_slow_and_one_that_takes_minutes_is_left(monkeypatch):
    steady(monkeypatch, 0.01)
    examined = examine(lambda: Faulty(), steps=300)
    assert [(f.code.number, f.severity) for f in findings(examined)] == [("E009", "amber")]
    steady(monkeypatch, 1.0)
    assert examine(lambda: Faulty(), steps=300).steps < 20, "eight seconds are its limit"


def test_choices_have_no_size():
    assert "E004" not in [f.code.number for f in findings(examine("Taxi-v3", steps=500))]
    examined = examine(lambda: Counted(), steps=500)
    assert findings(examined) == []
    assert facts(examined)["observation"].startswith("1 numbers, 5 choices; root mean square ")
    large = findings(examine(lambda: Counted(size=1e5), steps=500))
    assert [(f.code.number, f.severity) for f in large] == [("E004", "red")]


@pytest.mark.parametrize(
    ("task", "backend"),
    [("CartPole-v1", "gymnasium"), ("Pendulum-v1", "auto"), pytest.param("Hopper-v5", "auto", marks=pytest.mark.slow)],
)
def test_sound_environments_are_left_alone(task, backend):
    assert findings(examine(task, backend=backend)) == []


def test_a_sound_robot_is_left_alone():
    """In fewer steps than `proximo doctor` takes, so that chance has more room."""
    assert findings(examine("Hopper-v5", steps=800)) == []


@pytest.mark.parametrize("source", [tasks.everything, tasks.hybrid, tasks.catch, tasks.recall])
def test_every_kind_of_space_can_be_examined(source):
    assert examine(source, steps=200).steps > 100


@pytest.mark.parametrize(
    ("task", "said"),
    [("CartPole-v1", "never truncated"), ("Pendulum-v1", "never terminated"), (tasks.everything, "only")],
)
def test_the_facts_say_how_episodes_end(task, said):
    assert said in facts(examine(task, steps=300))["ends"]


def test_forbidden_actions_are_not_taken():
    spec = ActionSpec.of(spaces.MultiDiscrete([3, 4], start=[0, 5]))
    mask = np.array([[1, 0, 1, 0, 0, 0, 1]] * 500, bool)
    actions = random_actions(spec, 500, np.random.default_rng(0), mask)
    assert set(actions[:, 0].tolist()) == {0, 2}
    assert set(actions[:, 1].tolist()) == {8}
    free = random_actions(spec, 500, np.random.default_rng(0), None)
    assert set(free[:, 1].tolist()) == {5, 6, 7, 8}


def test_the_verb_tells_an_environment_from_a_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "explore", functools.partial(report.explore, steps=500))
    assert main(["doctor", "CartPole-v1"]) == 0
    assert capsys.readouterr().out.startswith("green  CartPole-v1: ")
    assert main(["doctor", "CartPole-v1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["health"] == "green"
    run = str(tmp_path / "run")
    assert (
        main(
            [
                "train",
                "CartPole-v1",
                "--steps",
                "2048",
                "--run",
                run,
                "--episodes",
                "1",
                "--episode-limit",
                "50",
                "--quiet",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["doctor", run]) == 0
    assert capsys.readouterr().out.startswith(f"green  {run}: ")
    assert main(["doctor", run, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
    (tmp_path / "run").rename(tmp_path / "ppo")  # as `proximo rlhf all` has it
    assert main(["doctor", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"green  {tmp_path / 'ppo'}: ")
    (tmp_path / "ppo").rename(tmp_path / "other")
    assert main(["doctor", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["doctor", "CartPole-v2"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("proximo: there is no folder CartPole-v2 and no environment 'CartPole-v2': did you mean")


def test_the_exit_code_tells_red_and_a_run_without_iterations_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    assert main(["doctor", "control_tasks:moody"]) == 1
    assert "red E005 not-reproducible" in capsys.readouterr().out
    run = tmp_path / "run"
    given = ["--steps", "2048", "--run", str(run), "--quiet", "--learning-rate", "1e30"]
    assert main(["train", "CartPole-v1", *given]) == 2  # its first update fails
    capsys.readouterr()
    assert main(["doctor", str(run)]) == 1
    assert capsys.readouterr().out.startswith(f"red  {run}: no iteration ended\n")
    assert main(["doctor", str(run), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["health"] == "red"
