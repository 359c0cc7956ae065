"""Fuzzed presets, settings and checkpoints of control runs: a value or one clear sentence."""

import json

import pytest
import torch
from control_runs import configured
from fuzzing import altered, answered, cases, damaged, junk, retyped, scalars
from hypothesis import given
from hypothesis import strategies as st

from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.loading import policy_from
from proximo.control.presets import configure, read_presets
from proximo.control.training.training import Training
from proximo.runs.config.toml import from_mapping
from proximo.runs.session.session import load_into
from proximo.runs.storage.checkpoint import save_checkpoint, step_name

PRESET = b"""family = "classic"
environments = ["CartPole-v1", "Acrobot*"]

[tuned]
source = "us"
steps = 100_000
learning_rate = "1e-3 -> 0"
network = { hidden = [64, 64], activation = "tanh" }

[tuned.update]
epochs = 4
clip = 0.2

[tuned.tasks."Acrobot-v1"]
gamma = 0.999
"""
TREE = {
    "steps": 1000,
    "learning_rate": "1e-3 -> 0",
    "network": {"hidden": [64, 64], "activation": "tanh", "log_std_range": [-5, 2]},
    "update": {"epochs": 4, "clip": 0.2, "target_kl": 0.03, "entropy_coefficient": "0.01 -> 0"},
    "normalizers": {"observations": True, "rewards": "scale"},
    "options": {"max_episode_steps": 5},
}


@given(st.one_of(damaged(PRESET), retyped(PRESET), junk))
@cases(900)
def test_a_damaged_preset_is_refused_or_read(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "fuzzed.toml"
    file.write_bytes(content)
    with answered():
        for preset in read_presets(file):
            preset.matches("CartPole-v1")
            preset.apply(TrainConfig())
    with answered():
        configure("CartPole-v1", str(file))


@given(altered(TREE))
@cases(800)
def test_settings_of_the_wrong_kind_are_refused_or_read(table):
    if isinstance(table, dict):
        with answered():
            from_mapping(TrainConfig, table, where="a test")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    config = configured(
        count=2, length=8, normalizers={"observations": True, "rewards": "scale"}, network={"hidden": (4,)}
    )
    environments = make_environments("CartPole-v1", 2, backend="gymnasium")
    training = Training(config, environments)
    training.start()
    training.iterate()
    tensors, state = training.state()
    yield training, tensors, json.loads(json.dumps(state)), tmp_path_factory.mktemp("fuzz")
    environments.close()


shapes = st.lists(st.integers(0, 3), max_size=3)
kinds = st.sampled_from([torch.float32, torch.float64, torch.int64, torch.uint8, torch.bool])


@given(st.data())
@cases(400)
def test_a_checkpoint_of_other_content_is_refused_or_loaded(saved, data):
    """Its sums are right: a stranger wrote it, or another version."""
    training, tensors, state, folder = saved
    tensors = dict(tensors)
    for _ in range(data.draw(st.integers(0, 2))):
        name = data.draw(st.sampled_from(sorted(tensors)))
        del tensors[name]
        if data.draw(st.booleans()):
            tensors[name] = torch.zeros(data.draw(shapes), dtype=data.draw(kinds))
    changed = data.draw(st.one_of(st.just(state), altered(state)))
    if not isinstance(changed, dict):
        changed = {"policy": changed}
    with answered():
        load_into(training, save_checkpoint(folder, step_name(1), tensors, changed))
    with answered():
        policy_from(tensors, changed)


@given(
    st.dictionaries(st.sampled_from(["steps", "gamma", "environments", "learning_rate", "seed"]), scalars, max_size=3)
)
@cases(300)
def test_settings_given_in_python_are_refused_or_read(table):
    with answered():
        from_mapping(TrainConfig, table, where="the arguments of proximo.train", base=TrainConfig())
