"""Code written for rsl_rl's runner runs with Proximo inside, and its checkpoints act here as they did there."""

import copy
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from pages import blocks
from shapes_of_others import RslRl

import proximo
from proximo.compat.rsl_rl import OnPolicyRunner, load_checkpoint, settings_of
from proximo.errors import UserError

NET = {"class_name": "MLPModel", "hidden_dims": [8, 6], "activation": "elu", "obs_normalization": True}
CFG = {
    "num_steps_per_env": 12,
    "save_interval": 50,
    "obs_groups": {"actor": ["policy"], "critic": ["policy", "critic"]},
    "actor": {**NET, "distribution_cfg": {"class_name": "GaussianDistribution", "init_std": 0.5}},
    "critic": NET,
    "algorithm": {
        "class_name": "PPO",
        "num_learning_epochs": 2,
        "num_mini_batches": 3,
        "value_loss_coef": 1.0,
        "schedule": "adaptive",
        "desired_kl": 0.02,
        "rnd_cfg": None,
    },
}


def changed(path, value):
    cfg = copy.deepcopy(CFG)
    *parts, last = path
    inner = cfg
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return cfg


def test_the_runner_learns_goes_on_and_hands_out_the_policy(tmp_path):
    runner = OnPolicyRunner(RslRl(final=False), CFG, str(tmp_path), "cpu")
    runner.learn(2)
    rows = proximo.metrics(tmp_path)
    assert len(rows) == 2
    assert rows[-1]["gradient_steps"] == 6  # 2 epochs of 3 minibatches
    OnPolicyRunner(RslRl(final=False), CFG, str(tmp_path), "cpu").learn(3)
    assert len(proximo.metrics(tmp_path)) == 3
    act = runner.get_inference_policy()
    seen = {"policy": torch.tensor([[0.0], [3.0]]), "critic": torch.zeros(2, 2)}
    assert act(seen).shape == (2, 2)
    assert torch.equal(act(seen), act({"policy": seen["policy"]}))


@pytest.mark.parametrize("who", ["mjlab", "Isaac Lab"])
def test_the_train_scripts_of_others_find_all_that_they_call(who, tmp_path):
    """Both write into the log folder, before the runner is made or after; mjlab gives settings of models that are no
    MLP as None.
    """
    log_dir = tmp_path / "log"
    if who == "mjlab":
        (log_dir / "params").mkdir(parents=True)
    off = {"cnn_cfg": None, "rnn_type": None, "rnn_hidden_dim": 256, "rnn_num_layers": 1}
    cfg = {**CFG, "actor": {**CFG["actor"], **off}, "critic": {**CFG["critic"], **off, "distribution_cfg": None}}
    cfg |= {"class_name": "OnPolicyRunner", "clip_actions": None, "upload_model": True, "wandb_tags": ()}
    for count in (1, 2):
        runner = OnPolicyRunner(RslRl(final=False), cfg, str(log_dir), "cpu")
        runner.add_git_repo_to_log(__file__)
        (log_dir / "params").mkdir(parents=True, exist_ok=True)
        runner.learn(num_learning_iterations=count, init_at_random_ep_len=True)
        assert len(proximo.metrics(log_dir / "proximo")) == count
    assert sorted(x.name for x in log_dir.iterdir()) == ["params", "proximo"]
    assert runner.get_inference_policy()({"policy": torch.zeros(1, 1)}).shape == (1, 2)
    with pytest.raises(UserError, match="goes on by itself"):
        runner.load("model_50.pt")


def test_settings_mean_what_they_mean_there():
    settings = settings_of(CFG)
    assert settings["update"]["value_coefficient"] == 2.0  # their loss is the squared error, ours half of it
    assert settings["update"]["adaptive_kl"] == 0.02
    assert settings["update"]["value_clip"] == settings["update"]["clip"] == 0.2
    assert settings["network"]["log_std"] == pytest.approx(np.log(0.5))
    assert settings["observations"] == {"actor": ("policy",), "critic": ("policy", "critic")}
    assert settings_of(changed(["algorithm", "schedule"], "fixed"))["update"]["adaptive_kl"] is None


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (["algorithm", "clip_parm"], 0.1, r"clip_parm \(did you mean clip_param\?\)"),
        (["num_steps"], 24, "not known here: num_steps"),
        (["algorithm", "rnd_cfg"], {"weight": 1}, "rnd_cfg.*not built"),
        (["actor", "class_name"], "RNNModel", "only MLPModel"),
        (["critic", "rnn_type"], "gru", "not built here"),
        (["critic", "hidden_dims"], [4], "hidden_dims is"),
        (["policy"], {}, "before its version 5"),
        (["actor", "distribution_cfg", "class_name"], "BetaDistribution", "choose GaussianDistribution"),
    ],
)
def test_what_is_not_known_or_not_here_is_named(path, value, why):
    with pytest.raises(UserError, match=why):
        OnPolicyRunner(RslRl(), changed(path, value))


def model(inputs, outputs):
    """A model in rsl_rl's form: what it computes, written out, and its state."""
    linear = torch.nn.Linear
    mlp = torch.nn.Sequential(linear(inputs, 8), torch.nn.ELU(), linear(8, 6), torch.nn.ELU(), linear(6, outputs))
    mean, std = torch.randn(1, inputs), torch.rand(1, inputs) + 0.1
    state = {f"mlp.{name}": x for name, x in mlp.state_dict().items()}
    state |= {"obs_normalizer._mean": mean, "obs_normalizer._std": std, "obs_normalizer._var": std**2}
    state["obs_normalizer.count"] = torch.tensor(4096)
    return lambda x: mlp((x - mean) / (std + 0.01)), state


def checkpoint(path):
    """Save one of rsl_rl's; what its actor and its critic compute."""
    (actor, actors), (critic, critics) = model(1, 2), model(3, 1)
    saved = {"actor_state_dict": {**actors, "distribution.std_param": torch.tensor([0.3, 0.7])}}
    torch.save({**saved, "critic_state_dict": critics, "iter": 3, "infos": None}, path)
    return actor, critic


def test_the_blocks_of_the_page_run(tmp_path, monkeypatch):
    """`learn` for one iteration, and mjlab's script for one that does nothing but make the runner it is given."""
    monkeypatch.chdir(tmp_path)
    training, script, acting = blocks("migrating-from-rsl_rl.md", "python")
    learn, learnt = OnPolicyRunner.learn, []
    monkeypatch.setattr(
        OnPolicyRunner, "learn", lambda runner, count, **how: learnt.append((count, how)) or learn(runner, 1, **how)
    )
    exec(training, space := {})
    act = space["train"](RslRl(final=False), CFG)
    assert learnt == [(1500, {"init_at_random_ep_len": True})]
    assert act({"policy": torch.zeros(2, 1)}).shape == (2, 2)
    train = SimpleNamespace(MjlabOnPolicyRunner=None, main=lambda: learnt.append(train.MjlabOnPolicyRunner))
    monkeypatch.setitem(sys.modules, "mjlab", ModuleType("mjlab"))
    monkeypatch.setitem(sys.modules, "mjlab.scripts", scripts := ModuleType("mjlab.scripts"))
    scripts.train = train
    exec(script, {"__name__": "__main__"})
    assert learnt[1:] == [OnPolicyRunner]
    actor, _ = checkpoint(tmp_path / "model_1500.pt")
    exec(acting, space := {})
    seen = torch.ones(2, 1)
    told = space["act"](RslRl(), CFG, {"policy": seen.numpy(), "critic": np.zeros((2, 2), np.float32)})
    assert np.abs(told - actor(seen).detach().numpy()).max() < 1e-6


def test_a_checkpoint_acts_as_it_did(tmp_path):
    torch.manual_seed(0)
    actor, critic = checkpoint(tmp_path / "model_3.pt")
    policy = load_checkpoint(tmp_path / "model_3.pt", RslRl(), CFG)
    own, hers = torch.randn(50, 1) * 3, torch.randn(50, 2) * 3
    seen = {"policy": own.numpy(), "critic": hers.numpy()}
    with torch.no_grad():
        assert np.abs(policy.act(seen) - actor(own).numpy()).max() < 1e-6
        assert np.abs(policy.value(seen) - critic(torch.cat([own, hers], 1)).squeeze(1).numpy()).max() < 1e-6
    assert policy.policy.deviations().exp().tolist() == pytest.approx([0.3, 0.7])
    (tmp_path / "other.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="no checkpoint of rsl_rl 5"):
        load_checkpoint(tmp_path / "other.pt", RslRl(), CFG)
