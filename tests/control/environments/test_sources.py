"""What the user calls an environment, and what is answered when there is none."""

import sys

import gymnasium
import numpy as np
import pytest
from environments_for_tests import Counting, counting_vector

from proximo.control.environments import VectorEnvironment, list_environments, make_environments, names
from proximo.control.environments.backends.gymnasium import GymnasiumEnvironments
from proximo.errors import UserError

HERE = "environments_for_tests"


@pytest.mark.parametrize(
    ("source", "asked", "given"),
    [
        ("CartPole-v1", "gymnasium", "gymnasium"),
        ("CartPole-v1", "subprocess", "subprocess"),
        ("gymnasium:CartPole-v1", "auto", "gymnasium"),
        (f"{HERE}:counting", "auto", "gymnasium"),
        (f"{HERE}:Counting", "subprocess", "subprocess"),
        (f"{HERE}:counting_vector", "auto", "gymnasium"),
        (Counting, "auto", "gymnasium"),
        (counting_vector, "auto", "gymnasium"),
        (lambda: GymnasiumEnvironments(counting_vector(), "mine", "my own"), "auto", "my own"),
    ],
)
def test_sources(source, asked, given):
    environments = make_environments(source, 3, backend=asked)
    assert isinstance(environments, VectorEnvironment)
    assert (environments.backend, environments.count) == (given, 3)
    observation, _ = environments.reset([0, 1, 2])
    assert observation.shape == (3, *environments.observation_space.shape)
    assert environments.step(np.zeros(3, np.int64)).valid.all()
    environments.close()


def test_auto_prefers_envpool_where_it_has_the_task():
    pytest.importorskip("envpool")
    assert make_environments("CartPole-v1", 2).backend == "envpool"


def test_auto_without_envpool_uses_gymnasium(monkeypatch):
    monkeypatch.setattr(names, "import_envpool", lambda: None)
    assert make_environments("CartPole-v1", 2).backend == "gymnasium"


def test_forced_envpool_without_its_wheel_says_so(monkeypatch):
    monkeypatch.setattr("proximo.control.environments.backends.envpool.import_envpool", lambda: None)
    with pytest.raises(UserError, match="not installed: `pip install envpool`"):
        make_environments("CartPole-v1", 2, backend="envpool")


def test_options_reach_the_function_and_the_task():
    made = make_environments(f"{HERE}:counting", 2, options={"form": "dict"})
    assert set(made.observation_space.spaces) == {"where", "step"}
    made = make_environments("CartPole-v1", 1, backend="gymnasium", options={"max_episode_steps": 2})
    made.reset([0])
    assert [made.step(np.zeros(1, np.int64)).truncated[0] for _ in range(2)] == [False, True]


def test_one_process_and_many_make_the_same_trajectories():
    trajectories = []
    for backend in ("gymnasium", "subprocess"):
        made = make_environments("CartPole-v1", 3, backend=backend)
        rows = [made.reset([5, 6, 7])[0]]
        for t in range(60):
            step = made.step(np.full(3, t % 2))
            rows += [step.observation, step.final_observation, step.reward, step.terminated]
        trajectories.append(rows)
        made.close()
    assert all(np.array_equal(one, other) for one, other in zip(*trajectories, strict=True))


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        (
            "HalfCheeta-v5",
            {},
            r"no environment 'HalfCheeta-v5': did you mean HalfCheetah-v5.*environments halfcheetah`",
        ),
        ("Zzzzqqq", {}, "no environment 'Zzzzqqq': `proximo environments zzzzqqq`"),
        ("no_such_module:make", {}, "no module 'no_such_module'"),
        (f"{HERE}:countin", {}, "has no 'countin'.*did you mean counting"),
        (f"{HERE}:a_number", {}, "is a int"),
        (f"{HERE}:not_an_environment", {}, "returned a int"),
        (f"{HERE}:counting_vector", {"count": 5}, "made 5 environments where 2 are asked for"),
        (f"{HERE}:counting", {"colour": 1}, "unexpected keyword argument 'colour'"),
        ("gymnasium:CartPole-v1", {"colour": 1}, "unexpected keyword argument 'colour'"),
    ],
)
def test_mistakes_are_named(source, options, message):
    with pytest.raises(UserError, match=message):
        make_environments(source, 2, options=options)


def test_a_wrong_backend_is_named():
    with pytest.raises(UserError, match="no backend 'envpol'"):
        make_environments("CartPole-v1", 2, backend="envpol")
    with pytest.raises(UserError, match="EnvPool has no environment 'CartPol-v1': did you mean CartPole-v1"):
        make_environments("CartPol-v1", 2, backend="envpool")
    with pytest.raises(UserError, match="not a task of EnvPool"):
        make_environments(Counting, 2, backend="envpool")
    for own in (f"{HERE}:counting", "gymnasium:CartPole-v1"):
        with pytest.raises(UserError, match=f"{own} is not a task of EnvPool: choose backend 'gymnasium'"):
            make_environments(own, 2, backend="envpool")
    with pytest.raises(UserError, match="which runs itself"):
        make_environments(counting_vector, 3, backend="subprocess")
    with pytest.raises(UserError, match="but EnvPool has"):
        make_environments("CheetahRun-v1", 2, backend="gymnasium")


@pytest.mark.parametrize("own", [False, True], ids=["by name", "from a function"])
@pytest.mark.parametrize(
    ("task", "module", "package"),
    [("LunarLander-v3", "Box2D", "gymnasium[box2d]"), ("HalfCheetah-v5", "mujoco", "gymnasium[mujoco]")],
)
def test_the_package_that_a_task_needs_is_named(task, module, package, own, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    for name in [name for name in sys.modules if name.startswith(("gymnasium.envs.box2d", "gymnasium.envs.mujoco"))]:
        monkeypatch.delitem(sys.modules, name)
    source = (lambda: gymnasium.make(task)) if own else task
    with pytest.raises(UserError) as caught:
        make_environments(source, 2, backend="gymnasium")
    message = str(caught.value)
    assert message.endswith(f"needs packages that are not installed: `pip install '{package}'`")
    assert "\n" not in message
    assert own or message.startswith(task)


def test_environments_of_different_spaces_are_refused():
    forms = iter(["array", "dict"])
    with pytest.raises(UserError, match="cannot be made a batch of 2"):
        make_environments(lambda: Counting(next(forms)), 2)


def test_the_current_folder_is_importable(tmp_path, monkeypatch):
    (tmp_path / "my_task.py").write_text("from environments_for_tests import Counting as make\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    assert make_environments("my_task:make", 2).count == 2


def test_a_module_whose_import_fails_brings_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "my_broken_task.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    with pytest.raises(UserError, match=r"'my_broken_task' could not be imported \(ZeroDivisionError(.|\n)*1 / 0"):
        make_environments("my_broken_task:make", 2)


def test_the_list_names_each_environment_once():
    pytest.importorskip("envpool")
    found = list_environments("CARTPOLE")
    assert ("CartPole-v1", "envpool, gymnasium") in found
    listed = [name for name, _ in list_environments()]
    assert len(listed) == len(set(listed)) > 1000
    left_out = set(gymnasium.registry) - set(listed)
    assert "CartPole-v1" not in left_out
    for name in left_out:  # because it can not be made here
        with pytest.raises(Exception, match=r"."):
            gymnasium.make(name)
    assert list_environments("zzzzqqq") == []


def test_one_environment_is_not_taken_for_several():
    made = gymnasium.make("CartPole-v1")
    with pytest.raises(UserError, match="returned the same environment twice, whose copies would share one state"):
        make_environments(lambda: made, 2)
    assert make_environments(lambda: gymnasium.make("CartPole-v1"), 2).count == 2
    assert make_environments(lambda: made, 1).count == 1
