"""Networks and encoders of the user's own train, resume, replay and load as ours do."""

import functools
import json
from contextlib import ExitStack

import control_tasks
import gymnasium
import numpy as np
import own_modules
import pytest
import torch
import warm
from control_runs import configured, running, trained, weights
from gymnasium import spaces
from same_runs import PLAN, same_runs

import proximo
from proximo.control.config import NetworkSettings
from proximo.control.environments import make_environments
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training.replay import replay_world
from proximo.errors import UserError
from proximo.runs import new_process
from proximo.runs.replay.entry import read
from proximo.runs.replay.report import replay

NAMED = {"custom": "own_modules:Ours", "arguments": {"hidden": 32}}
SMALL = {"environments": 2, "rollout_length": 32, "update": {"minibatch_size": 32, "epochs": 2}, "progress": "quiet"}


class Parts(gymnasium.Env):
    """A Dict of a vector, a table, a choice and an image; the reward is what the vector says."""

    observation_space = spaces.Dict(
        {
            "arm": spaces.Box(-1, 1, (3,), np.float32),
            "camera": spaces.Box(0, 255, (12, 12, 3), np.uint8),
            "grid": spaces.Box(-1, 1, (2, 2), np.float32),
            "tool": spaces.Discrete(4),
        }
    )
    action_space = spaces.Box(-1, 1, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        self.seen, self.now = self.observation_space.sample(), 0
        return self.seen, {}

    def step(self, action):
        reward, self.now = float(action @ self.seen["arm"][:2]), self.now + 1
        self.seen = self.observation_space.sample()
        return self.seen, reward, False, self.now == 5, {}


class Two(Parts):
    """The same with the two plain keys alone."""

    observation_space = spaces.Dict({key: Parts.observation_space[key] for key in ("arm", "tool")})


@pytest.mark.parametrize("task", [{"number": 5}, {"number": 5, "actions": "box"}, {"number": 5, "view": "pixels"}])
@pytest.mark.parametrize("normalizers", [{}, {"rewards": "return"}])
def test_our_network_given_as_ones_own_is_the_same_run_bit_for_bit(task, normalizers):
    if task.get("view") != "pixels":
        normalizers = {**normalizers, "observations": True}
    # Our parameters lie in another order, and so a sum over all of them has other last bits.
    plan = {"options": task, "normalizers": normalizers, "update": {"max_grad_norm": None}}
    ours = trained(control_tasks.probe, 3, closed_form=False, **plan)
    own = trained(control_tasks.probe, 3, network=NAMED, **plan)
    assert own.closed_form is None
    assert torch.equal(weights(own), weights(ours))


def test_a_memory_of_ones_own_is_run_step_by_step_as_ours_is_at_once():
    """The same function computed in another order: log-probs, values and gradients agree to rounding."""
    plan = {"options": {"number": 3}, "update": {"epochs": 1}}
    named = {"custom": "own_modules:Ours", "arguments": {"hidden": 32, "memory": "gru"}}
    ours = trained(control_tasks.probe, 2, network={"memory": "gru", "memory_size": 8}, **plan)
    own = trained(control_tasks.probe, 2, network=named, **plan)
    assert own.policy.memory_size == ours.policy.memory_size == 8
    torch.testing.assert_close(weights(own), weights(ours), rtol=1e-4, atol=1e-5)


def test_keys_are_views_of_what_was_encoded():
    spec = ObservationSpec.of(Parts.observation_space)
    env = Parts()
    seen = [env.reset(seed=seed)[0] for seed in range(3)]
    stacked = {key: np.stack([x[key] for x in seen]) for key in seen[0]}
    found = spec.by_key({name: torch.from_numpy(x) for name, x in spec.encode(stacked).items()})
    assert spec.keys == {"arm": (3,), "camera": (3, 12, 12), "grid": (2, 2), "tool": (4,)}
    assert list(found) == list(spec.keys)
    assert np.array_equal(found["arm"], stacked["arm"])
    assert np.array_equal(found["grid"], stacked["grid"])
    assert found["tool"].argmax(1).tolist() == stacked["tool"].tolist()
    assert np.array_equal(found["camera"], np.moveaxis(stacked["camera"], -1, 1))


@pytest.mark.parametrize("normalizers", [{}, {"observations": True}])
def test_an_encoder_that_changes_nothing_changes_nothing(normalizers):
    """Of the first key, so that the features are in the same order."""
    plan = {"count": 2, "length": 20, "normalizers": normalizers}
    plain = trained(Parts, 2, closed_form=False, **plan)
    encoded = trained(Parts, 2, network={"encoders": {"arm": "own_modules:Same"}}, **plan)
    assert torch.equal(weights(encoded), weights(plain))


def test_an_encoder_takes_the_place_of_its_key_alone():
    spec, actions = ObservationSpec.of(Parts.observation_space), ActionSpec.of(Parts.action_space)
    encoders = {"tool": "own_modules:Doubled", "camera": "own_modules:Same"}
    policy = ControlPolicy(spec, actions, NetworkSettings(hidden=(), encoders=encoders))
    env = Parts()
    seen = {key: x[None] for key, x in env.reset(seed=0)[0].items()}
    inputs = {name: torch.from_numpy(x) for name, x in spec.encode(seen).items()}
    tool = 2.0 * np.eye(4, dtype=np.float32)[seen["tool"]]
    camera = np.moveaxis(seen["camera"], -1, 1).reshape(1, -1).astype(np.float32)
    expected = np.concatenate([tool, camera, seen["arm"], seen["grid"].reshape(1, -1)], 1)
    assert np.array_equal(policy.network.features(inputs).numpy(), expected)
    many = {name: x.expand(2, 5, *x.shape[1:]) for name, x in inputs.items()}
    assert np.array_equal(policy.network.features(many).numpy(), np.broadcast_to(expected, (2, 5, expected.shape[1])))


def test_a_network_may_give_whole_distributions():
    named = {"custom": "own_modules:OwnDeviations"}
    with running(control_tasks.probe, options={"number": 5, "actions": "box"}, network=named) as training:
        rows = [training.iterate() for _ in range(40)]
        assert not len(training.policy.log_std)
        assert training.policy.memory_size == 0
    assert 0 < rows[-1]["std"] < rows[0]["std"]
    assert rows[-1]["exact_kl"] >= 0
    assert rows[-1]["entropy"] != rows[0]["entropy"]
    # The best action has reward 0; an untrained policy is some 5 off.
    assert np.mean([row["reward_mean"] for row in rows[-3:]]) > 0.5 * rows[0]["reward_mean"]


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_a_replay_is_exact_with_a_network_of_ones_own(memory, tmp_path):
    named = {"custom": "own_modules:Ours", "arguments": {"memory": memory}}
    with running("Pendulum-v1", count=4, network=named) as training:
        for _ in range(2):
            training.iterate()
        training.ring.write(tmp_path / "replay")
    there = read(tmp_path / "replay")
    with ExitStack() as stack:
        found = replay(there, there.choose(None), replay_world(there, stack), "gamma=0.5")
    assert found.exact
    assert found.other.report.values != found.again.report.values


@pytest.mark.parametrize("given", [own_modules.Ours, functools.partial(own_modules.Ours, hidden=8), "own_modules:Ours"])
def test_it_is_given_as_a_class_and_found_again_by_its_name(given, tmp_path):
    plan = {key: value for key, value in PLAN.items() if key != "network"} | {"network": given}
    whole = proximo.train("CartPole-v1", run=tmp_path / "whole", **plan)
    assert proximo.train("CartPole-v1", run=tmp_path / "half", stop_at=300, **plan).stopped
    same_runs(whole, proximo.train("CartPole-v1", run=tmp_path / "half", **plan))
    policy = proximo.load(tmp_path / "whole")
    assert policy.policy.settings.custom == "own_modules:Ours"
    assert policy.act(np.zeros(4)) in (0, 1)
    assert proximo.evaluate(tmp_path / "whole", episodes=2)["episodes"] == 2
    assert proximo.replay(tmp_path / "whole").exact


def test_encoders_are_given_by_key(tmp_path, monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    run = proximo.train(Two, steps=128, run=tmp_path / "r", encoders={"tool": own_modules.Doubled}, **SMALL)
    assert 'tool = "own_modules:Doubled"' in (run.path / "config.toml").read_text()
    assert proximo.load(run.path).act({"arm": [0.0, 0.0, 0.0], "tool": 1}).shape == (2,)
    assert proximo.verify_resume(run.path, 1).exact


def test_a_network_reads_keys_of_a_dict(tmp_path):
    run = proximo.train(Two, steps=128, run=tmp_path / "r", network=own_modules.ByKey, **SMALL)
    assert proximo.load(run.path).value({"arm": [0.0, 0.0, 0.0], "tool": 1}).shape == ()


def test_another_network_is_another_run(tmp_path):
    first = proximo.train("CartPole-v1", steps=128, run=tmp_path / "r", network=own_modules.Ours, **SMALL)
    other = proximo.train("CartPole-v1", steps=128, run=tmp_path / "r", network=own_modules.Theirs, **SMALL)
    assert (other.path.name, other.finished_before) == ("r-2", False)
    again = proximo.train("CartPole-v1", steps=128, run=tmp_path / "r", network=own_modules.Ours, **SMALL)
    assert again.finished_before
    code = json.loads((first.path / "code" / "identity.json").read_text())
    assert "network" in code


def local():
    """A class that no other process can find."""

    class Local(own_modules.Ours):
        pass

    return Local


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda observations, outputs: None, r"network: .*<lambda> of .* can not be found"),
        (local(), r"Local of .* define it at the top of a module"),
        (own_modules.Same(()), r"network is a Same that is made already.*network=Same"),
        (functools.partial(own_modules.Ours, hidden=[8]), "stored by name: numbers, texts"),
        ("own_modules:Absent", "module 'own_modules' has no 'Absent'"),
        ("absent_module:Net", "there is no module 'absent_module'"),
        (own_modules.no_module, r"network own_modules:no_module gives a int, and has to give a torch.nn.Module"),
        (
            "shutil:rmtree",
            r"network shutil:rmtree is a function: give a class of your own derived from torch\.nn\.Module",
        ),
        ("builtins:print", r"network builtins:print is a builtin_function_or_method: give a class"),
        (own_modules.Alone, r"Alone failed .*it gave a Tensor where outputs and values were wanted"),
        (own_modules.Narrow, r"gives shapes \[\(3, 1\), \(3,\)\], and has to give outputs \[3, 2\] and values \[3\]"),
        (
            own_modules.Failing,
            r"own_modules:Failing failed at .*own_modules.py:\d+ \(KeyError: 'camera'\).*vector \(3, 4\)",
        ),
        (functools.partial(own_modules.Ours, width=3), r"can not be made.*unexpected keyword argument 'width'"),
    ],
)
def test_what_is_no_network_is_refused_in_one_sentence(given, said, tmp_path):
    with pytest.raises(UserError, match=said) as error:
        proximo.train("CartPole-v1", steps=128, run=tmp_path / "r", network=given, **SMALL)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("encoders", "said"),
    [
        ({"tol": own_modules.Same}, r"encoders names the observation 'tol', and the environment shows arm, tool"),
        (
            {"tool": own_modules.ByKey},
            r"ByKey of 'tool' can not be made.*called as Encoder\(\(4,\)\)",
        ),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_sentence(encoders, said, tmp_path):
    with pytest.raises(UserError, match=said):
        proximo.train(Two, steps=128, run=tmp_path / "r", encoders=encoders, **SMALL)


def test_normalised_returns_need_the_critics_last_layer():
    config = configured(network={"custom": "own_modules:ByKey"}, normalizers={"rewards": "return"}, count=2)
    with pytest.raises(UserError, match="name it value_head"):
        proximo.control.training.training.Training(config, make_environments(Two, 2))


def test_dropout_of_any_kind_stands_still():
    training = trained("CartPole-v1", 2, network={"custom": "own_modules:Dropping"}, count=4)
    seen = {"vector": torch.ones(3, 4)}
    first, again = (training.policy.value(seen) for _ in range(2))
    assert torch.equal(first, again)


def test_whole_distributions_and_advantages_that_are_estimated_again():
    named = {"custom": "own_modules:OwnDeviations"}
    update = {"recompute_advantages": True}
    trained(control_tasks.probe, 2, options={"number": 5, "actions": "box"}, network=named, update=update)


def test_a_memory_of_ours_beside_a_network_of_ones_own_is_refused():
    with pytest.raises(ValueError, match="memory = gru is of our networks"):
        NetworkSettings(custom="own_modules:Ours", memory="gru")
