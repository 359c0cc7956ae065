"""The same seed is the same run, bit for bit, whether or not it was interrupted."""

import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import control_tasks
import gymnasium
import numpy as np
import pytest
import torch
from control_runs import running, weights
from same_runs import PLAN, same_runs, same_tensors

import proximo
from proximo.control.training.training import Training
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics

NORMALISED = {"observations": True, "rewards": "scale"}
KINDS = {
    "envpool": ("CartPole-v1", {"backend": "envpool", "normalizers": NORMALISED}),
    "gymnasium": ("CartPole-v1", {"backend": "gymnasium", "normalizers": NORMALISED}),
    "subprocess": ("Pendulum-v1", {"backend": "subprocess", "normalizers": NORMALISED, "count": 2}),
    "recurrent": (control_tasks.recall, {"network": {"memory": "lstm", "memory_size": 8}, "normalizers": NORMALISED}),
    "pixels": (control_tasks.catch, {"count": 2}),
}


def learnt(kind, seed):
    source, settings = KINDS[kind]
    with running(source, seed=seed, **settings) as training:
        metrics = [training.iterate() for _ in range(3)]
    return weights(training), [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in metrics]


@pytest.mark.parametrize("kind", KINDS)
def test_a_seed_is_a_run(kind):
    (first, told), (second, tells) = learnt(kind, 3), learnt(kind, 3)
    assert torch.equal(first, second)
    assert json.dumps(told) == json.dumps(tells)
    other, _ = learnt(kind, 4)
    assert not torch.allclose(first, other)


def test_the_global_generators_have_no_part_in_a_run():
    one, _ = learnt("gymnasium", 3)
    torch.manual_seed(12345)
    torch.rand(7)
    two, _ = learnt("gymnasium", 3)
    assert torch.equal(one, two)


RESUMED = {
    "envpool": ("CartPole-v1", {"backend": "envpool"}),
    "gymnasium": ("CartPole-v1", {"backend": "gymnasium", "normalizers": {"rewards": "return"}}),
    "recurrent": (control_tasks.recall, {"network": {"hidden": [16], "memory": "gru", "memory_size": 8}}),
    "adaptive": (control_tasks.hybrid, {"update": {**PLAN["update"], "adaptive_kl": 0.01, "minibatch_size": 16}}),
    "gsde": (control_tasks.hybrid, {"network": {"hidden": [16], "noise": "gsde", "noise_every": 5}}),
    "subprocess": ("Pendulum-v1", {"backend": "subprocess", "environments": 2, "rollout_length": 32}),
    "recurrent subprocess": (
        "Acrobot-v1",
        {
            "backend": "subprocess",
            "environments": 2,
            "rollout_length": 32,
            "options": {"max_episode_steps": 20},
            "network": {"hidden": [16], "memory": "lstm", "memory_size": 8},
        },
    ),
    "recurrent envpool": (
        "CartPole-v1",
        {"backend": "envpool", "network": {"hidden": [16], "memory": "gru", "memory_size": 8}},
    ),
    "pixels": (control_tasks.catch, {"options": {"size": 8}, "normalizers": {}}),
    "frame stack": (control_tasks.catch, {"options": {"size": 8}, "normalizers": {}, "frame_stack": 3}),
    "pixels subprocess": (
        control_tasks.catch,
        {
            "backend": "subprocess",
            "environments": 2,
            "rollout_length": 32,
            "options": {"size": 8},
            "normalizers": {},
            "network": {"hidden": [16], "memory": "gru", "memory_size": 8},
        },
    ),
}
COMBINED = ("recurrent subprocess", "recurrent envpool", "frame stack", "pixels subprocess")
"""Of parts that are stopped one by one too."""
QUICK = ("envpool", "gymnasium", "recurrent", "adaptive", "gsde")


def break_down_in(monkeypatch, iteration):
    """The process dies in an iteration, after the metrics of the one before were written."""
    iterate = Training.iterate

    def dying(self):
        if self.progress.iterations == iteration:
            raise MemoryError("the machine is gone")
        return iterate(self)

    monkeypatch.setattr(Training, "iterate", dying)


@pytest.mark.parametrize("kind", QUICK)
def test_a_run_that_broke_down_goes_on_as_if_it_had_not(kind, tmp_path, monkeypatch):
    source, changes = RESUMED[kind]
    whole = proximo.train(source, run=str(tmp_path / "whole"), **{**PLAN, **changes})
    with monkeypatch.context() as patch:
        break_down_in(patch, 6)
        with pytest.raises(MemoryError):
            proximo.train(source, run=str(tmp_path / "broken"), **{**PLAN, **changes})
    before = read_metrics(tmp_path / "broken" / "metrics.jsonl")
    (checkpoint,) = (tmp_path / "broken" / "checkpoints").glob("step-*")
    saved_at = int(checkpoint.name.removeprefix("step-"))
    assert before[-1]["step"] > saved_at, "what was written after the checkpoint has to go"
    broken = proximo.train(source, run=str(tmp_path / "broken"), **{**PLAN, **changes})

    same_runs(whole, broken)
    # Running it once more finds it done and changes nothing.
    assert proximo.train(source, run=str(tmp_path / "broken"), **{**PLAN, **changes}).results == broken.results


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in COMBINED)) for kind in RESUMED]
)
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(kind, tmp_path):
    """Between two reset points, at one, and before the first iteration: the environments are brought back exactly."""
    source, changes = RESUMED[kind]
    plan = {**PLAN, "steps": 64 * 6, **changes}
    whole = proximo.train(source, run=str(tmp_path / "whole"), **plan)
    for stop_at in (0, 64 * 2, 64 * 4, 64 * 4 + 1):
        stopped = proximo.train(source, run=str(tmp_path / "stopped"), stop_at=stop_at, **plan)
        assert stopped.stopped == "stop-at"
        assert stop_at <= stopped.results["steps"] < plan["steps"]
    same_runs(whole, proximo.train(source, run=str(tmp_path / "stopped"), **plan))


HALF = """
import json, sys
import proximo
proximo.train("CartPole-v1", run=sys.argv[1], **json.loads(sys.argv[2]))
"""


def test_the_second_half_in_a_new_process_is_that_of_the_run_that_went_through(tmp_path):
    plan = {**PLAN, "steps": 64 * 10}
    whole = proximo.train("CartPole-v1", run=str(tmp_path / "whole"), **plan)
    half = proximo.train("CartPole-v1", run=str(tmp_path / "half"), stop_at=64 * 5, **plan)
    assert half.stopped == "stop-at"
    command = [sys.executable, "-c", HALF, str(half.path), json.dumps(plan)]
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run(command, env=environment, check=True, timeout=300)
    same_runs(whole, replace(whole, path=half.path, results=json.loads((half.path / "results.json").read_text())))


@pytest.mark.parametrize("damage", ["flipped", "cut", "pickled"])
def test_a_damaged_checkpoint_is_passed_over_and_said_and_the_run_is_the_same(damage, tmp_path, capsys):
    whole = proximo.train("CartPole-v1", run=str(tmp_path / "whole"), **PLAN)
    for stop_at in (64 * 2, 64 * 6):
        proximo.train("CartPole-v1", run=str(tmp_path / "r"), stop_at=stop_at, **{**PLAN, "keep": 3})
    checkpoints = sorted((tmp_path / "r" / "checkpoints").glob("step-*"))
    assert len(checkpoints) == 3
    file = checkpoints[-1] / "tensors.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 4
    file.write_bytes(pickle.dumps(PLAN) if damage == "pickled" else content[:-1] if damage == "cut" else content)
    done = proximo.train("CartPole-v1", run=str(tmp_path / "r"), **{**PLAN, "keep": 3})
    said = capsys.readouterr().err
    assert said.startswith(f"proximo: passing over a broken checkpoint: {file}")
    assert said.count("\n") == 1
    same_runs(whole, done)
    (done.path / "results.json").unlink()
    for checkpoint in (tmp_path / "r" / "checkpoints").glob("step-*"):
        (checkpoint / "state.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=r"no checkpoint in .* is whole: restore one"):
        proximo.train("CartPole-v1", run=str(tmp_path / "r"), **{**PLAN, "keep": 3})


class Forgetful(gymnasium.Env):
    """Its observations do not follow from its seed."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 1, (2,)), gymnasium.spaces.Discrete(2)
    seen = 0

    def reset(self, *, seed=None, options=None):
        return self.look(), {}

    def step(self, action):
        return self.look(), 1.0, False, Forgetful.seen % 20 == 0, {}

    def look(self):
        Forgetful.seen += 1
        return np.array([0.5, (Forgetful.seen % 97) / 97], np.float32)


@pytest.mark.parametrize("mode", ["plain", "quiet"])
def test_environments_that_do_not_come_back_are_said_to_start_anew_and_recorded(tmp_path, capsys, mode):
    plan = {**PLAN, "run": str(tmp_path / "run"), "progress": mode}
    stopped = proximo.train(Forgetful, stop_at=64 * 6, **plan)
    assert "did not come back" not in capsys.readouterr().err
    settings = (tmp_path / "run" / "config.toml").read_text()
    done = proximo.train(Forgetful, **plan)
    said = capsys.readouterr().err
    assert ("128 steps are taken again" in said) == (mode == "plain")
    why = "the environments did not come back to where they were (vector differs)"
    assert why in said
    note = f"# resume not exact at {stopped.results['steps']} steps: {why}\n"
    assert (tmp_path / "run" / "config.toml").read_text() == note + settings
    assert done.stopped is None
    assert json.loads((done.path / "results.json").read_text())["exact_resume"] is False


def test_a_run_that_came_back_says_that_too(tmp_path):
    plan = {**PLAN, "run": str(tmp_path / "run")}
    proximo.train("CartPole-v1", stop_at=64 * 6, **plan)
    assert proximo.train("CartPole-v1", **plan).results["exact_resume"] is True
    assert not (tmp_path / "run" / "config.toml").read_text().startswith("#")


def test_a_run_that_broke_down_before_its_first_checkpoint_starts_anew(tmp_path, monkeypatch):
    whole = proximo.train("CartPole-v1", run=str(tmp_path / "whole"), **PLAN)
    with monkeypatch.context() as patch:
        break_down_in(patch, 2)
        with pytest.raises(MemoryError):
            proximo.train("CartPole-v1", run=str(tmp_path / "broken"), **PLAN)
    broken = proximo.train("CartPole-v1", run=str(tmp_path / "broken"), **PLAN)
    a, b = (load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (whole, broken))
    same_tensors(a, b)
    assert len(read_metrics(broken.path / "metrics.jsonl")) == len(read_metrics(whole.path / "metrics.jsonl"))


def test_a_checkpoint_is_a_reset_point_in_every_run(tmp_path, monkeypatch):
    """Environments that can not be saved start anew at each checkpoint, resumed or not."""
    restarts = []
    restart = Training.restart

    def watched(self):
        before = self.scaler.accumulated.abs().sum().item()
        restart(self)
        restarts.append((self.progress.iterations, before, self.scaler.accumulated.abs().sum().item()))

    monkeypatch.setattr(Training, "restart", watched)
    proximo.train("CartPole-v1", run=str(tmp_path / "run"), **PLAN)
    iterations, accumulated, left = zip(*restarts, strict=True)
    assert len(restarts) == len(set(iterations)) == 3
    assert all(total > 0 for total in accumulated[1:])
    assert left == (0.0, 0.0, 0.0), "a discounted return does not reach over a restart"
