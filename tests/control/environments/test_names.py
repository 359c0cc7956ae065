"""Names find their way as people write them; what is listed can be made; what is missing is named."""

import importlib.util

import gymnasium
import pytest

from proximo.control.environments import known_name, list_environments, make_environments
from proximo.control.environments import names as names_module
from proximo.control.environments.names import all_names, gymnasium_names
from proximo.control.presets import configure
from proximo.errors import UserError


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("cartpole-v1", "CartPole-v1"),
        ("HALFCHEETAH-V5", "HalfCheetah-v5"),
        ("my_env:make", "my_env:make"),
        ("my_env.py:make", "my_env:make"),
        ("./my_env.py:Make", "my_env:Make"),
        ("pkg/envs/robot.py:make", "pkg.envs.robot:make"),
        ("pkg/envs/robot:make", "pkg.envs.robot:make"),
        ("pkg.envs.robot:make", "pkg.envs.robot:make"),
        ("../x/foo.py:make", "../x/foo.py:make"),  # which is not x/foo.py
        ("/abs/foo.py:make", "/abs/foo.py:make"),
        ("gymnasium:CartPole-v1", "gymnasium:CartPole-v1"),
        ("gymnasium:cartpole-v1", "gymnasium:CartPole-v1"),
        ("Nothing-v9", "Nothing-v9"),
        ("", ""),
    ],
)
def test_a_name_is_what_is_meant_by_it(typed, meant):
    assert known_name(typed) == meant


@pytest.mark.skipif("CheetahRun-v1" not in all_names(), reason="EnvPool is not installed")
@pytest.mark.parametrize("typed", ["dm_control/cheetah-run", "dm_control/cheetah-run-v0", "dm_control/cheetah_run"])
def test_the_deepmind_suite_is_found_under_its_own_names(typed):
    assert known_name(typed) == "CheetahRun-v1"
    assert known_name("dm_control/ball_in_cup-catch") == "BallInCupCatch-v1"


@pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")
@pytest.mark.parametrize(("name", "sticky"), [("PongNoFrameskip-v4", 0.0), ("Pong-v4", 0.0), ("ALE/Pong-v5", 0.25)])
def test_ataris_old_ids_are_prepared_as_its_new_ones(name, sticky):
    """PongNoFrameskip-v4 is the id of CleanRL, SB3's zoo and most papers."""
    environments = make_environments(name, 1)
    assert environments.observation_space.shape == (4, 84, 84)
    environments.close()
    assert gymnasium.spec(name).kwargs["repeat_action_probability"] == sticky
    assert configure(name, "tuned")[1].family == "atari"


def test_what_is_listed_is_what_can_be_made():
    listed = dict(list_environments())
    alone = [name for name, stepped_by in listed.items() if stepped_by == "gymnasium"]
    alone = [name for name in alone if "ale_py" not in str(gymnasium.spec(name).entry_point)]
    assert "CartPole-v1" in listed
    assert not {"GymV21Environment-v0", "GymV26Environment-v0", "HalfCheetah-v2"} & set(listed)
    for name in alone:
        make_environments(name, 1).close()


def test_a_name_is_never_answered_with_itself_and_missing_packages_are_named(monkeypatch):
    with pytest.raises(UserError) as caught:
        make_environments("cartpole-v2", 1)
    assert "did you mean CartPole-v1" in str(caught.value)
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "ale_py" else find(name, *rest)
    )
    monkeypatch.setattr(names_module, "all_names", lambda: {"CartPole-v1"})
    for name in ("PongNoFrameskip-v4", "ALE/Pong-v5"):
        with pytest.raises(UserError, match="`pip install ale-py opencv-python-headless`"):
            raise names_module.unknown(name)


@pytest.mark.parametrize("name", ["Ant-v2", "Walker2d-v2"])
def test_a_task_that_gymnasium_has_no_more_is_neither_made_nor_offered(name):
    assert name not in gymnasium_names()
    with pytest.raises(UserError, match=f"no environment '{name}': did you mean {name[:-1]}"):
        make_environments(name, 1, backend="gymnasium")


def test_a_class_in_a_file_is_named_in_our_form(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy.py").write_text("class Point: pass")
    with pytest.raises(UserError, match=r"no environment 'toy/Point': did you mean toy:Point\?"):
        make_environments("toy/Point", 1)


@pytest.mark.skipif(not names_module.pettingzoo_modules(), reason="PettingZoo is not installed")
@pytest.mark.parametrize("typed", ["tictactoe_v3", "pettingzoo/classic/tictactoe_v3"])
def test_a_game_of_pettingzoo_is_found_without_its_package(typed):
    with pytest.raises(UserError, match=r"did you mean pettingzoo/tictactoe_v3\?"):
        make_environments(typed, 1)
