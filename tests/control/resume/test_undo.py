"""An iteration that fails or is given up leaves everything as before it, in a checkpoint that says why."""

import os
import signal
import subprocess
import sys
import time

import control_tasks
import gymnasium
import numpy as np
import pytest
import torch
import warm
from control_runs import running

import proximo
from proximo.control.training.training import Training
from proximo.core.invariants import InvariantError
from proximo.errors import UserError
from proximo.inspection import replay
from proximo.runs.replay.entry import read
from proximo.runs.session.signals import PATIENCE
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.runs.storage.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # what a blow-up is

PLAN = {
    "progress": "quiet",
    "environments": 2,
    "rollout_length": 32,
    "steps": 640,
    "episodes": 2,
    "episode_limit": 50,
    "update": {"epochs": 4, "minibatch_size": 16},
    "network": {"hidden": [8]},
    "normalizers": {"observations": True, "rewards": "scale"},
}


def snapshot(training):
    tensors, state = training.state()
    return {name: x.clone() for name, x in tensors.items()}, state


def same(before, after):
    (a, state_a), (b, state_b) = before, after
    assert state_a == state_b
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("kind", ["closed form", "autograd", "recurrent", "adaptive"])
def test_an_update_that_blows_up_is_undone_to_the_last_bit(kind):
    settings = {"recurrent": {"network": {"memory": "gru"}}, "adaptive": {"update": {"adaptive_kl": 0.01}}}
    source = control_tasks.recall if kind == "recurrent" else "CartPole-v1"
    normalizers = {"observations": True, "rewards": "scale"}
    with running(source, closed_form=kind != "autograd", normalizers=normalizers, **settings.get(kind, {})) as training:
        training.iterate()
        before = snapshot(training)
        # A step so long that the second minibatch has no finite loss: weights, moments and generators have moved.
        step = training.optimizer.step

        def leap(norm=None):
            result = step(norm)
            training.optimizer.flat.data.mul_(1e30)
            return result

        training.optimizer.step = leap
        with pytest.raises(InvariantError, match="not-finite"):
            training.iterate()
        assert not torch.equal(training.optimizer.flat, training.before.snapshot.weights)
        training.rewind()
        same(before, snapshot(training))
        del training.optimizer.step
        training.iterate()


def test_a_run_whose_loss_is_not_finite_stops_with_the_cause_and_can_be_replayed(tmp_path):
    folder = tmp_path / "run"
    plan = {**PLAN, "learning_rate": "1e-3 -> 1e36", "run": str(folder)}
    with pytest.raises(UserError) as caught:
        proximo.train("Pendulum-v1", **plan)
    message = str(caught.value)
    assert "not-finite" in message
    assert f"proximo replay {folder}" in message
    (name,) = (p.name for p in (folder / "checkpoints").glob("step-*"))
    assert f"checkpoints/{name}" in message
    tensors, state = load_checkpoint(folder / "checkpoints" / name)
    assert all(bool(torch.isfinite(x).all()) for x in tensors.values() if x.is_floating_point())
    rows = read_metrics(folder / "metrics.jsonl")
    assert state["progress"]["steps"] == max((row["step"] for row in rows), default=64)
    failed = replay(folder)
    assert failed.exact
    assert failed.again.error in message
    assert failed.again.not_finite == "log_prob of minibatch 1", "after a step that leaves huge weights"
    assert len(failed.again.largest_advantages) == 5
    assert all(np.isfinite(sample.advantage) for sample in failed.again.largest_advantages)
    kept = read(folder / "replay").entries[-1]
    # The same command repeats that very update: the same batch, the same end.
    with pytest.raises(UserError) as again:
        proximo.train("Pendulum-v1", **plan)
    assert str(again.value) == message
    repeated = read(folder / "replay").entries[-1]
    assert repeated.iteration == kept.iteration
    assert all(torch.equal(kept.learnt[key], repeated.learnt[key]) for key in kept.learnt)
    # And what if the step were smaller? Then it goes well, and so it does in the run.
    milder = replay(folder, change="learning_rate=1e-3")
    assert (milder.other.error, milder.other.not_finite) == (None, None)
    done = proximo.train("Pendulum-v1", **{**plan, "learning_rate": 1e-3}, allow_change=True)
    assert done.results["steps"] >= 640


class Slow(gymnasium.Env):
    """CartPole that asks itself to stop in step `at`, and from then on takes 30 ms for a step."""

    slowly = 0

    def __init__(self, at):
        self.at, self.env, self.steps = at, gymnasium.make("CartPole-v1"), 0
        self.observation_space, self.action_space = self.env.observation_space, self.env.action_space

    def reset(self, *, seed=None, options=None):
        return self.env.reset(seed=seed)

    def step(self, action):
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.at and self.steps >= self.at:
            Slow.slowly += 1
            time.sleep(0.03)
        return self.env.step(action)


def test_sigterm_in_a_long_iteration_saves_what_was_before_it_and_loses_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr("proximo.runs.session.signals.StopRequest.__init__.__defaults__", (0.2,))
    plan = {**PLAN, "environments": 1, "rollout_length": 64, "steps": 640}
    whole = proximo.train(lambda: Slow(0), run=str(tmp_path / "whole"), **plan)
    Slow.slowly = 0
    # The first rollout only shows what the numbers look like: step 200 is in the third one that is learnt from.
    stopped = proximo.train(lambda: Slow(200), run=str(tmp_path / "stopped"), **plan)
    assert Slow.slowly < 56, "it did not wait for the end of its iteration at step 256"
    assert stopped.stopped == "SIGTERM"
    assert stopped.results["steps"] == 192
    done = proximo.train(lambda: Slow(0), run=str(tmp_path / "stopped"), allow_change=True, **plan)
    a, b = (load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (whole, done))
    assert all(torch.equal(a[name], b[name]) for name in a if name.startswith(("policy", "optimizer", "scaler")))


UNANSWERED = 10.0  # seconds, which only what hangs takes, however busy the machine is


class Failing(gymnasium.Wrapper):
    """Pendulum that does its deed in step 150, unless `healed` exists."""

    def __init__(self, deed, healed):
        super().__init__(gymnasium.make("Pendulum-v1"))
        self.deed, self.healed, self.steps = deed, healed, 0

    def step(self, action):
        self.steps += 1
        observation, *rest = self.env.step(action)
        if self.steps == 150 and not self.healed.exists():
            if self.deed == "raise":
                raise OSError("the simulator is gone")
            if self.deed == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.deed == "hang":
                time.sleep(1000)
            observation[0] = np.nan
        return observation, *rest


@pytest.mark.parametrize(
    ("deed", "backend", "message"),
    [
        (
            "raise",
            "gymnasium",
            r"environment 0 .* failed at its step 150 \(last action .*: OSError: the simulator",
        ),
        ("nan", "gymnasium", r"environment 0 .* returned nan in its observation \[0\] at its step 150"),
        pytest.param(
            "raise", "subprocess", r"environment 0 .* failed at its step 150 \(last action", marks=pytest.mark.slow
        ),
        ("kill", "subprocess", r"the process of environment \d .* was killed by SIGKILL in step 150 \(last action"),
        ("hang", "subprocess", r"environment 0 .* did not answer within 10 s in step 150 \(last action .*timeout"),
    ],
)
def test_an_environment_that_fails_costs_only_the_iteration_it_failed_in(tmp_path, deed, backend, message):
    healed = tmp_path / "healed"
    plan = {**PLAN, "environment_timeout": UNANSWERED, "backend": backend, "run": str(tmp_path / "run")}
    with pytest.raises(UserError, match=message):
        proximo.train(lambda: Failing(deed, healed), **plan)
    (checkpoint,) = (tmp_path / "run" / "checkpoints").glob("step-*")
    assert checkpoint.name == f"step-{256:012d}", "step 150 is in the fifth rollout of 32"
    healed.touch()
    done = proximo.train(lambda: Failing(deed, healed), **plan)
    whole = proximo.train(lambda: Failing(deed, healed), **{**plan, "run": str(tmp_path / "whole")})
    a, b = (load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (whole, done))
    assert all(torch.equal(a[name], b[name]) for name in a if name.startswith(("policy", "optimizer", "scaler")))


SLOW = """
import sys, time
import gymnasium
from proximo.cli.main import main

class Slow(gymnasium.Wrapper):
    def step(self, action):
        if not sys.argv[2:]:
            print("step", flush=True)
            time.sleep(0.2)
        return self.env.step(action)

def make():
    return Slow(gymnasium.make("CartPole-v1"))

sys.modules["slow"] = sys.modules["__main__"]
sizes = ["--environments", "1", "--rollout-length", "1000", "--update.minibatch-size", "500", "--steps", "1000"]
sizes += ["--normalizers.observations", "False", "--normalizers.rewards", "off", "--episode-limit", "50"]
sys.exit(main(["train", "slow:make", "--quiet", "--run", sys.argv[1], *sizes, "--episodes", "1"]))
"""


def test_sigterm_is_answered_within_seconds_though_the_iteration_takes_minutes(tmp_path):
    command = [sys.executable, "-c", SLOW, str(tmp_path / "run")]
    process = warm.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)  # half of its iteration
    assert process.returncode == 128 + signal.SIGTERM
    assert PATIENCE <= 5, "seconds until an iteration is broken off"
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name == f"step-{0:012d}"
    again = warm.run([*command, "fast"], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 1000


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_whole_process_group_stops_the_run_and_not_its_environments(tmp_path, number):
    """A terminal's Ctrl-C and a scheduler's SIGTERM reach the environments' processes as well."""
    plan = ["--environments", "2", "--rollout-length", "32", "--update.minibatch-size", "32", "--steps", "1000000"]
    code = "import signal, sys; from proximo.cli.main import main; signal.signal(2, signal.default_int_handler); "
    code += f"sys.exit(main(['train', 'Pendulum-v1', '--backend', 'subprocess', '--run', sys.argv[1], *{plan}]))"
    process = warm.Popen(
        [sys.executable, "-c", code, str(tmp_path / "run")], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 128 + number, said
    assert "Traceback" not in said
    assert f"{number.name}: saved at" in said
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is not None


def test_the_first_iteration_can_be_undone_too():
    with running("CartPole-v1") as training:
        before = snapshot(training)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Training, "measure", lambda *_: (_ for _ in ()).throw(InvariantError("seen")))
            with pytest.raises(InvariantError):
                training.iterate()
        training.rewind()
        same(before, snapshot(training))
        assert np.isinf(training.best.mean_return)
