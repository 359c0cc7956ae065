"""`verify-resume` finds what is not exact, and nothing where everything is."""

import subprocess
from types import SimpleNamespace

import control_tasks
import gymnasium
import numpy as np
import pytest
import torch
import warm
from command_lines import HERE
from control_runs import configured

from proximo.control.training.training import Training
from proximo.control.verify import verify_control
from proximo.errors import UserError
from proximo.runs import new_process


def verify(source, **settings):
    return verify_control(configured(count=2, environment="a test's", **settings), 2, source)


class Clinging(gymnasium.Env):
    """Remembers over a reset, seed or not, how many episodes there were."""

    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)
    episodes = 0

    def reset(self, *, seed=None, options=None):
        self.now, self.episodes = 0, self.episodes + 1
        return np.full(1, 1 / self.episodes, np.float32), {}

    def step(self, action):
        self.now += 1
        return np.full(1, 1 / self.episodes, np.float32), 1.0, False, self.now == 7, {}


@pytest.mark.parametrize(
    ("source", "settings"),
    [
        ("CartPole-v1", {"normalizers": {"observations": True, "rewards": "scale"}}),
        ("Pendulum-v1", {"backend": "subprocess", "update": {"adaptive_kl": 0.01}}),
        (control_tasks.recall, {"network": {"memory": "gru", "memory_size": 8}}),
    ],
)
def test_runs_that_go_on_exactly_are_said_to(source, settings, monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    result = verify(source, **settings)
    assert result.exact
    assert str(result).startswith("this run resumes exactly\n  stopped and resumed: equal to the last bit\n")
    assert result.new_processes == isinstance(source, str)
    assert not result.causes
    assert [c.what.split(" from")[0] for c in result.comparisons] == ["stopped and resumed", "killed and resumed"]


def test_an_environment_that_does_not_follow_from_its_seed_is_named():
    result = verify(control_tasks.moody)
    assert not result.exact
    said = "does not follow from its seed and actions: observation (vector) of environment 0 differs at step 5"
    assert said in result.causes[0]
    assert "the same settings do not give the same run twice" in result.causes[1]
    assert result.comparisons[0].iteration == 1


def test_an_environment_that_follows_from_the_processs_hash_seed_is_named(monkeypatch):
    """The run and the one that does it again have seeds of their own; those between share one, in less time."""

    def started(command, *, env, **options):
        return (subprocess if env["PYTHONHASHSEED"] in ("1", "5") else warm).run(command, env=env, **options)

    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(new_process, "subprocess", SimpleNamespace(run=started))
    result = verify("control_tasks:hashed")
    assert not result.exact
    assert result.causes[0].startswith("it repeats within one process and not in the next, as what is made of hash()")
    assert "the same settings do not give the same run twice" in result.causes[1]


def test_a_process_that_fails_says_why(monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    with pytest.raises(UserError, match="no environment 'Cartpol-v1': did you mean"):
        verify("Cartpol-v1")


def test_a_reset_that_leaves_something_behind_is_named():
    result = verify(Clinging)
    assert not result.exact
    assert "leaves something of the episodes before: observation (vector)" in result.causes[0]
    assert result.comparisons[-1].what == "not stopped, only done again"
    assert result.comparisons[-1].exact


@pytest.mark.parametrize(
    ("lost", "named"), [("optimizer/exp_avg", "optimizer/exp_avg"), ("random/generators/noise", "random/generators")]
)
def test_a_checkpoint_that_forgets_something_is_found_out(monkeypatch, lost, named):
    load = Training.load

    def forgetful(self, tensors, state):
        own = self.noise.get_state()
        load(self, {**tensors, lost: torch.zeros_like(tensors[lost]) if "optimizer" in lost else own}, state)

    monkeypatch.setattr(Training, "load", forgetful)
    result = verify(lambda: gymnasium.make("CartPole-v1"))  # a callable: in this process, where it forgets
    assert not result.exact
    assert not result.new_processes
    assert result.lines[-1].startswith("all in one process")
    stopped = result.comparisons[0]
    assert stopped.iteration is not None
    assert stopped.iteration > 1, "up to the stop it is the same run"
    assert any(name.startswith(named) for name in stopped.tensors)
    assert stopped.largest > 0
    assert result.causes == (
        "the run itself is repeatable, so that a checkpoint must lack something: please report it",
    )
