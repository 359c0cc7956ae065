"""Whole runs in awkward circumstances: a maker of vectors, stacked frames, an environment that changed, a late stop."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from control_runs import running

import proximo
from proximo.control.evaluation import at_the_end
from proximo.errors import UserError

SMALL = {
    "steps": 256,
    "environments": 2,
    "rollout_length": 32,
    "episodes": 3,
    "episode_limit": 50,
    "update": {"epochs": 1, "minibatch_size": 32},
    "progress": "quiet",
}


def two_cartpoles():
    return gymnasium.make_vec("CartPole-v1", num_envs=2)


def test_a_maker_of_a_vector_is_trained_and_evaluated(tmp_path):
    run = proximo.train(two_cartpoles, run=tmp_path / "r", **SMALL)
    assert run.results["final_deterministic"] >= 8, "CartPole can not fall sooner"


def test_stacked_frames_are_remembered_by_a_loaded_policy(tmp_path):
    run = proximo.train("CartPole-v1", run=tmp_path / "r", frame_stack=3, backend="gymnasium", **SMALL)
    policy = proximo.load(run.path)
    frames = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    for _ in range(2):
        for t, frame in enumerate(frames):
            action = policy.act(frame)
            shown = np.concatenate([frames[max(i, 0)] for i in range(t - 2, t + 1)])
            direct = policy.policy.act({"vector": torch.from_numpy(shown)[None]}, deterministic=True)
            assert action == direct.action.item()
        policy.reset()


class Changing(gymnasium.Env):
    size = 2

    def __init__(self):
        self.observation_space = gymnasium.spaces.Box(-1, 1, (self.size,))
        self.action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.t = 0
        return np.zeros(self.size, np.float32), {}

    def step(self, action):
        self.t += 1
        return np.zeros(self.size, np.float32), 1.0, self.t == 5, False, {}


def interrupted_in_evaluation(tmp_path, monkeypatch, source):
    def fails(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(at_the_end, "evaluate_all", fails)
        with pytest.raises(KeyboardInterrupt):
            proximo.train(source, run=tmp_path / "r", **SMALL)


def test_a_run_stopped_in_its_last_evaluation_is_not_trained_again(tmp_path, monkeypatch):
    interrupted_in_evaluation(tmp_path, monkeypatch, Changing)
    rows = (tmp_path / "r" / "metrics.jsonl").read_text()
    run = proximo.train(Changing, run=tmp_path / "r", **SMALL)
    assert run.results["final_deterministic"] == 5
    assert (tmp_path / "r" / "metrics.jsonl").read_text() == rows
    assert json.loads((tmp_path / "r" / "results.json").read_text())["steps"] == run.results["steps"] >= 256


def test_an_environment_that_changed_under_its_name_is_refused(tmp_path, monkeypatch):
    interrupted_in_evaluation(tmp_path, monkeypatch, Changing)
    monkeypatch.setattr(Changing, "size", 3)
    with pytest.raises(UserError, match=r"spaces of .*Changing have changed"):
        proximo.train(Changing, run=tmp_path / "r", **SMALL)


@pytest.mark.parametrize("memory", ["gru", "lstm"])
def test_recomputed_values_of_a_recurrent_policy_are_the_rollouts_own_before_it_moves(memory):
    network = {"memory": memory, "memory_size": 8}
    with running(Changing, network=network, update={"recompute_advantages": True}) as training:
        rollout = training.collector.collect()
        batch = training.estimator.batch(rollout, torch.from_numpy(rollout.reward))
        again = training.estimator.reestimate(batch)
        torch.testing.assert_close(again.advantages, batch.advantages, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again.returns, batch.returns, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            training.policy.network.value_head.bias += 1.0
        moved = training.estimator.reestimate(batch)
        assert not torch.allclose(moved.advantages, batch.advantages, atol=1e-2)
