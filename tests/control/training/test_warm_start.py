"""A run starts from what another one has learnt, and ends by itself where it is told to; both resume exactly."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import configured

import proximo
from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.training.training import Training
from proximo.control.verify import verify_control
from proximo.errors import UserError

NAME = f"{control_tasks.__name__}:burdened"
SETTINGS = {
    "environments": 4,
    "rollout_length": 16,
    "episodes": 1,
    "episode_limit": 50,
    "progress": "quiet",
    "update": {"minibatch_size": 64},
}
NETWORK = {"network": {"hidden": [8]}, "normalizers": {"observations": True, "rewards": "scale"}}
GROUPS = {"observations": {"actor": ("state",), "critic": ("privileged_state",)}}
SEEN = {"state": np.float32([[-0.5], [0.7]]), "privileged_state": np.float32([[1, 2], [3, 4]])}


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A run that has learnt something."""
    folder = tmp_path_factory.mktemp("warm") / "first"
    return proximo.train(NAME, steps=512, run=folder, **SETTINGS, **NETWORK, **GROUPS)


def begun(start, parts=("policy", "critic", "normalizers"), **changes):
    """A training that has not begun, from another run."""
    settings = {**NETWORK, **GROUPS, **changes}
    settings["network"] = {**settings["network"], "hidden": tuple(settings["network"]["hidden"])}
    config = configured(count=4, start_from=str(start), start_with=parts, **settings)
    environments = make_environments(control_tasks.burdened, 4, observation_keys=config.visible)
    training = Training(config, environments)
    training.start()
    return training


def test_weights_are_not_taken_by_a_network_of_another_activation(learnt, tmp_path):
    with pytest.raises(UserError, match=r"its network\.activation is tanh, and here it is relu"):
        begun(learnt.path, network={"hidden": [8], "activation": "relu"})


def test_what_actor_and_critic_have_of_their_own_is_not_put_into_layers_that_they_share(tmp_path):
    """The critic's would take the place of the actor's: another policy."""
    call = {**SETTINGS, "steps": 128, "observations": {"actor": ("state",)}, "normalizers": {"observations": True}}
    apart = proximo.train(NAME, run=tmp_path / "apart", network={"hidden": [8]}, **call)
    shared = {"network": {"hidden": [8], "shared": True}, "observations": {"actor": ("state",)}}
    shared |= {"normalizers": {"observations": True}}
    with pytest.raises(UserError, match=r"share their layers here \(network\.shared\)"):
        begun(apart.path, **shared)
    now = begun(apart.path, ("policy", "normalizers"), **shared)
    before, state = proximo.load(apart.path).policy.state_dict(), now.policy.state_dict()
    actor = {name for name in before if name.startswith("network.actor.")}
    assert actor
    assert all(torch.equal(state[name], before[name]) for name in actor)


@pytest.mark.parametrize(
    ("rewards", "parts", "told"),
    [
        ("scale", ("policy", "critic"), False),
        ("off", ("policy", "critic"), True),
        ("return", ("policy", "critic"), True),
        ("off", ("policy",), False),
    ],
)
def test_a_critic_of_other_units_is_told(learnt, rewards, parts, told):
    now = begun(learnt.path, parts, normalizers={"observations": True, "rewards": rewards})
    assert ("normalizers.rewards is scale there and not scale here" in now.warm) == told
    assert bool(now.warm) == told


def test_spaces_that_differ_are_told_in_words(learnt, tmp_path):
    with pytest.raises(UserError) as told:
        begun(learnt.path, network={"hidden": [8], "actions": "squashed"})
    number = "1 number from -1 to 1"
    assert f"its actions are {number}, and here they are {number}, squashed:" in str(told.value)
    with pytest.raises(UserError) as told:
        begun(learnt.path, observations={"actor": ("privileged_state",), "critic": ("privileged_state",)})
    assert "its observations are state [1], and here they are privileged_state [2]:" in str(told.value)


def test_a_run_begins_anew_in_the_folder_that_its_preset_lies_in(tmp_path):
    call = {**SETTINGS, "steps": 64, "network": {"hidden": [8]}}
    first = proximo.train("CartPole-v1", run=tmp_path / "first", **call)
    again = proximo.train("CartPole-v1", run=first.path, preset=str(first.path / "config.toml"), fresh=True, **call)
    assert again.results["steps"] == first.results["steps"]


def test_a_run_is_never_deleted_by_the_one_that_starts_from_it(tmp_path):
    call = {**SETTINGS, "steps": 128, "network": {"hidden": [8]}, "observations": {"actor": ("state",)}}
    first = proximo.train(NAME, run=tmp_path / "first", **call)
    before = {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    for start in (first, first.path / "checkpoints" / "final", f"{first.path}/../first"):
        with pytest.raises(UserError, match=r"start_from = .* is read by this run, and --fresh .* would delete it"):
            proximo.train(NAME, run=first.path, start_from=start, fresh=True, **call)
    with pytest.raises(UserError, match=r"teacher = .* is read by this run"):
        proximo.distill(first, run=first.path, fresh=True, **{**SETTINGS, "steps": 64})
    with pytest.raises(UserError, match="start_from is read where a run begins"):
        proximo.train(NAME, run=first.path, start_from=first, allow_change=True, **call)
    assert {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("parts", [("policy",), ("policy", "critic"), ("policy", "critic", "normalizers")])
def test_the_parts_that_are_named_are_those_of_the_other_run(learnt, parts):
    before = proximo.load(learnt.path).policy.state_dict()
    now = begun(learnt.path, parts)
    state = now.policy.state_dict()
    same = {name for name, x in state.items() if torch.equal(x, before[name])}
    assert "network.actor.0.weight" in same
    assert ("network.value_head.weight" in same) == ("critic" in parts)
    counts = now.policy.normalizer.moments.count, before["normalizer.moments.count"]
    # The first rollout, of 64 rows, only shows what the numbers look like, and is taken in.
    assert float(counts[0]) == 64 + float(counts[1]) * ("normalizers" in parts)
    assert (float(now.scaler.moments.count) > 64) == ("critic" in parts)
    assert not now.optimizer.state()  # no step was taken


def test_another_task_of_the_same_spaces_starts_as_the_first_one_ended_and_goes_on_exactly(learnt, tmp_path):
    call = {**SETTINGS, **NETWORK, **GROUPS, "start_from": learnt, "steps": 512}
    call |= {"learning_rate": 0.0, "options": {"burden": 0.5}, "start_with": ["policy", "critic"]}
    proximo.train(NAME, run=tmp_path / "second", stop_at=128, **call)
    second = proximo.train(NAME, run=tmp_path / "second", **call)
    assert second.results["exact_resume"]
    weights = proximo.load(second.path).policy.network.state_dict()
    expected = proximo.load(learnt.path).policy.network.state_dict()
    assert all(torch.equal(x, expected[name]) for name, x in weights.items())
    config = configured(
        count=2,
        environment="a test's",
        start_from=str(learnt.path),
        network={"hidden": (8,)},
        normalizers=NETWORK["normalizers"],
        **GROUPS,
    )
    assert verify_control(config, 2, control_tasks.burdened).exact


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"network": {"hidden": [9]}}, r"network\.actor\.0\.weight is \(9, 1\) here and \(8, 1\) there"),
        ({"normalizers": {"observations": False}}, "it has normalizers.observations = true"),
        ({"observations": {"actor": ["privileged_state"], "critic": ["state"]}}, "its observations are"),
        ({"observations": {"actor": ["state"]}}, "its critic's observations are"),
    ],
)
def test_what_does_not_fit_is_refused(learnt, changes, why):
    with pytest.raises(UserError, match=why):
        begun(learnt.path, **changes)


def test_what_can_not_be_found_or_meant_is_refused(learnt, tmp_path):
    with pytest.raises(UserError, match=r"start_from = .*holds no run"):
        begun(tmp_path / "nothing")
    for setting, why in (
        ({"until": "return>3"}, "must be return=NUMBER"),
        ({"until": "return=3:101"}, "1 to 100 episodes"),
        ({"max_minutes": 0.0}, "must be positive"),
        ({"start_from": learnt, "start_with": ["critic"]}, "must hold policy"),
    ):
        with pytest.raises(UserError, match=why):
            proximo.train(NAME, run=tmp_path / "x", **SETTINGS, **setting)


def test_a_run_ends_at_the_return_it_was_told_to_and_a_resumed_one_at_the_same_step(tmp_path):
    call = {"steps": 100_000, "environments": 8, "rollout_length": 32, "episodes": 1, "progress": "quiet"}
    call |= {"update": {"minibatch_size": 64}, "until": "return=60:20", "learning_rate": 3e-3}
    whole = proximo.train("CartPole-v1", run=tmp_path / "whole", **call)
    rows = [row["return"] for row in proximo.metrics(whole.path)]
    assert whole.results["steps"] < 50_000
    assert whole.results["ended_by"] == "until return=60:20"
    assert np.nanmax(np.array(rows[:-1], float)) < 75
    proximo.train("CartPole-v1", run=tmp_path / "parts", stop_at=whole.results["steps"] // 2, **call)
    parts = proximo.train("CartPole-v1", run=tmp_path / "parts", **call)
    for name in ("steps", "ended_by", "final_deterministic"):
        assert parts.results[name] == whole.results[name]


def test_a_run_ends_when_its_time_is_used_up(tmp_path):
    run = proximo.train("CartPole-v1", run=tmp_path, max_minutes=1e-4, steps=10**7, episodes=1, progress="quiet")
    assert run.results["ended_by"] == "max_minutes 0.0001"
    assert run.results["steps"] < 10**7


def test_a_number_of_minibatches_is_turned_into_their_size():
    config = TrainConfig(environments=8, rollout_length=24, minibatches=4)
    assert config.update.minibatch_size == 48
    assert config.minibatches is None
    with pytest.raises(ValueError, match="must divide a rollout of 192 steps"):
        TrainConfig(environments=8, rollout_length=24, minibatches=5)
