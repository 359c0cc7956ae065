"""Actor and critic see the parts that are named for each: the actor never more, and the critic learns from its own."""

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import configured, replayed, running, trained
from gymnasium import spaces

import proximo
from proximo.control.config import TrainConfig
from proximo.control.evaluation.results import evaluate_run
from proximo.control.loading import LoadedPolicy
from proximo.control.spaces.groups import Roles
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.verify import verify_control
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, read_toml, to_toml

SEEN = {"actor": ("state",), "critic": ("privileged_state",)}
BLIND = {"actor": ("state",)}
NORMALISED = {"normalizers": {"observations": True, "rewards": "return"}}
GRU = {"network": {"memory": "gru", "memory_size": 8}}
GO1 = "MuJoCoPlayground/Go1JoystickFlatTerrain-v1"
TARGETS = np.linspace(-0.9, 0.9, 7, dtype=np.float32)[:, None]


def test_what_only_the_critic_sees_moves_no_action_of_a_real_robot():
    groups = {"actor": ("state",), "critic": ("state", "privileged_state")}
    settings = {"count": 2, "length": 8, "update": {"minibatch_size": None, "epochs": 1}, **NORMALISED}
    with running(GO1, observations=groups, **settings) as training:
        training.iterate()
        observation, _ = training.environments.reset([3, 4])
    policy = LoadedPolicy(training.policy)
    other = {**observation, "privileged_state": observation["privileged_state"] + 1}
    assert policy.policy.observations.vector_size == 48
    assert policy.policy.critic_observations.vector_size == 48 + 123
    assert np.array_equal(policy.act(observation), policy.act(other))
    assert np.array_equal(policy.act(observation), policy.act({"state": observation["state"]}))
    assert policy.act({"state": observation["state"][0]}).shape == (12,)
    assert (policy.value(observation) != policy.value(other)).all()
    with pytest.raises(UserError, match="no part at privileged_state"):
        policy.value({"state": observation["state"]})


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_critic_that_sees_what_is_paid_anyway_teaches_more_than_a_blind_one(seed):
    def missed(groups):
        plan = {"learning_rate": "0.01 -> 0", "steps": 40 * 128, "options": {"burden": 20.0}}
        training = trained(control_tasks.burdened, 40, seed=seed, observations=groups, **plan, **NORMALISED)
        actions = LoadedPolicy(training.policy).act({"state": TARGETS})
        return float(np.square(actions - TARGETS).mean())

    assert missed(SEEN) < 0.5 * missed(BLIND)


@pytest.mark.parametrize(
    "settings", [{"closed_form": False}, {}, NORMALISED, GRU], ids=["autograd", "by hand", "n", "gru"]
)
def test_an_update_of_two_views_is_repeated_to_the_last_bit(settings, tmp_path):
    with running(control_tasks.burdened, observations=SEEN, **settings) as training:
        assert (training.closed_form is not None) == (settings in ({}, NORMALISED))
        for _ in range(2):
            training.iterate()
        training.ring.write(tmp_path)
    for found in replayed(tmp_path):
        assert found.exact, found.verdict


def test_both_views_are_normalised_each_by_its_own_statistics():
    with running(control_tasks.burdened, observations=SEEN, **NORMALISED) as training:
        for _ in range(3):
            training.iterate()
        policy = training.policy
        seen = {name: torch.cat([policy.normalizers[name].moments.mean]) for name in policy.normalizers}
    assert {name: len(x) for name, x in seen.items()} == {"vector": 1, "critic.vector": 2}
    assert float(policy.critic_normalizer.moments.scale()[0]) == pytest.approx(10, rel=0.2)
    assert float(policy.normalizer.moments.scale()[0]) == pytest.approx(3**-0.5, rel=0.1)


@pytest.mark.parametrize("settings", [NORMALISED, GRU], ids=["normalised", "gru"])
def test_a_run_with_two_views_resumes_exactly(settings):
    config = configured(count=2, environment="a test's", observations=SEEN, **settings)
    assert verify_control(config, 2, control_tasks.burdened).exact


def test_the_run_is_evaluated_exported_and_loaded_with_the_actors_part(tmp_path):
    call = {"steps": 256, "environments": 2, "rollout_length": 32, "episodes": 2, "update": {"minibatch_size": 64}}
    name = f"{control_tasks.__name__}:burdened"
    groups = {"policy": ["state"], "critic": ["state", "privileged_state"]}  # as rsl_rl writes them
    run = proximo.train(name, progress="quiet", obs_groups=groups, run=tmp_path / "run", **call)
    assert run.config.observations.actor == ("state",)
    assert np.isfinite(evaluate_run(run.path, 2)["final_deterministic"])
    exported = proximo.export(run, "numpy", observations=20)
    assert [port["shape"] for port in exported.contract["inputs"]] == [[1]]
    assert proximo.load(run.path).act({"state": np.float32([0.5])}).shape == (1,)


def test_parts_are_joined_in_the_order_of_their_names():
    shown = ObservationSpec.of(spaces.Dict({name: spaces.Box(-1, 1, (2,)) for name in ("a", "b", "c")}))
    roles = Roles.of(shown, ("c", "a"), ("b", "*"), "a test's")
    assert [part.key for part in roles.actor.parts] == ["c", "a"]
    assert [part.key for part in roles.critic.parts] == ["b", "a", "c"]
    alone = Roles.of(shown, ("c", "a"), (), "a test's")
    assert [part.key for part in alone.actor.parts] == ["c", "a"]
    assert alone.critic is None
    assert [part.key for part in Roles.of(shown, (), (), "a test's").actor.parts] == ["a", "b", "c"]


def test_a_policy_alone_reads_its_parts_in_the_order_of_their_names_and_goes_on_so(tmp_path):
    plan = {"observations": {"actor": ("privileged_state", "state")}, "count": 2, "environment": "a test's"}
    with running(control_tasks.burdened, **plan) as training:
        rollout = training.collect()
        policy = LoadedPolicy(training.policy)
    assert torch.equal(rollout.inputs["vector"][..., 1], rollout.inputs["vector"][..., 2]), "the target, seen twice"
    assert policy.act({"state": np.float32([0.5]), "privileged_state": np.float32([1, 2])}).shape == (1,)
    assert verify_control(configured(**plan), 2, control_tasks.burdened).exact
    call = {"steps": 64, "environments": 2, "rollout_length": 16, "episodes": 2, "update": {"minibatch_size": 32}}
    seen = {"observations": {"actor": ["state", "privileged_state"]}}
    run = proximo.train(control_tasks.burdened, progress="quiet", run=tmp_path, **call, **seen)
    assert np.isfinite(proximo.evaluate(run, 2)["final_deterministic"])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"observations": {"critic": ["state"]}}, "needs observations.actor"),
        ({"observations": BLIND, "observation_keys": ["state"]}, "give one of them"),
        ({"observations": SEEN, "network": {"shared": True}}, "leaves no room"),
        ({"obs_groups": {"teacher": ["state"]}}, "the sets teacher"),
        ({"observations": {"actor": ["stat"]}}, "did you mean state"),
    ],
)
def test_views_that_do_not_go_together_are_refused(settings, why, tmp_path):
    with pytest.raises(UserError, match=why):
        proximo.train(control_tasks.burdened, steps=64, progress="quiet", run=tmp_path, **settings)


def test_settings_of_a_run_are_read_back(tmp_path):
    config = configured(observations=SEEN)
    (tmp_path / "config.toml").write_text(to_toml(config))
    assert (
        from_mapping(TrainConfig, read_toml(tmp_path / "config.toml"), where="a test").observations
        == config.observations
    )
