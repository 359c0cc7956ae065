"""An update of a control run done again is the same to the last bit, and with a setting changed that of such a run."""

import json
import math
from contextlib import ExitStack
from dataclasses import replace

import control_tasks
import pytest
import torch
from control_runs import running

from proximo.cli.main import main
from proximo.control.training.replay import make_learner, replay_world
from proximo.core.updates.update import UpdateReport
from proximo.errors import UserError
from proximo.runs.replay.entry import read
from proximo.runs.replay.report import replay

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # what a blow-up is

SCALED = {"normalizers": {"observations": True, "rewards": "scale"}}
KINDS = {
    "closed form": ("Pendulum-v1", SCALED),
    "choices": ("CartPole-v1", {"normalizers": {"rewards": "return"}}),
    "autograd": ("Pendulum-v1", {"closed_form": False, "normalizers": {"observations": True, "rewards": "return"}}),
    "recurrent": (control_tasks.recall, {"network": {"memory": "lstm", "memory_size": 8}, **SCALED}),
    "recomputed": ("Pendulum-v1", {"update": {"recompute_advantages": True}, **SCALED}),
    "recurrent, recomputed": (
        control_tasks.recall,
        {"network": {"memory": "gru", "memory_size": 8}, "update": {"recompute_advantages": True}},
    ),
    "adaptive": ("Pendulum-v1", {"update": {"adaptive_kl": 0.01, "clip": "0.2 -> 0.1"}}),
    "beta": ("Pendulum-v1", {"network": {"actions": "beta"}, "update": {"adaptive_kl": 0.01}}),
    "gsde": ("Pendulum-v1", {"network": {"noise": "gsde", "noise_every": 3}}),
    "pixels": (control_tasks.catch, {"length": 8, "network": {"pixels": "impala"}}),
    "cut": ("Pendulum-v1", {"options": {"max_episode_steps": 7}, **SCALED}),
    "recurrent, cut": ("Pendulum-v1", {"options": {"max_episode_steps": 7}, "network": {"memory": "gru"}}),
    "many parts": (control_tasks.everything, {}),
}


def kept(training, folder):
    training.ring.write(folder)
    return read(folder)


def again(there, iteration=None, change=None):
    with ExitStack() as stack:
        return replay(there, there.choose(iteration), replay_world(there, stack), change)


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_done_again_is_the_same_to_the_last_bit(kind, tmp_path):
    source, settings = KINDS[kind]
    with running(source, count=4, learning_rate="1e-2 -> 0", steps=10_000, **settings) as training:
        threads = torch.get_num_threads()
        for _ in range(3):
            training.iterate()
        there = kept(training, tmp_path / "replay")
    for entry in there.entries:
        found = again(there, entry.iteration)
        assert found.exact, found.verdict
        assert not torch.equal(found.again.weights, entry.before.weights), "an update that moves nothing shows nothing"
        assert found.again.report.values == entry.report["values"]
        assert found.again.not_finite is None
    assert torch.get_num_threads() == threads
    # A kept update of which one bit is another is not said to be the same.
    entry = there.entries[-1]
    other = entry.after.clone()
    other.view(torch.int32)[3] ^= 1
    found = again(replace(there, entries=[replace(entry, after=other)]))
    assert not found.exact
    assert len(found.differing) == 1


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        ("clip=0.05", {"update": {"clip": 0.05}}),
        ("update.epochs=1", {"update": {"epochs": 1}}),
        ("minibatch_size=16", {"update": {"minibatch_size": 16}}),
        ("target_kl=1e-6", {"update": {"target_kl": 1e-6}}),
        ("normalize_advantages=off", {"update": {"normalize_advantages": "off"}}),
        ("learning_rate=3e-3 -> 0", {"learning_rate": "3e-3 -> 0"}),
        ("gamma=0.5", {"gamma": 0.5}),
        ("lam=0", {"lam": 0.0}),
        ("adaptive_kl=1e-5", {"update": {"adaptive_kl": 1e-5}}),
    ],
)
def test_with_a_setting_changed_it_is_the_update_of_a_run_with_that_setting(change, settings, tmp_path):
    plan = {"count": 4, "learning_rate": "1e-2 -> 0", "steps": 10_000}
    with running("Pendulum-v1", **plan) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    # Up to the first update both runs are the same.
    with running("Pendulum-v1", **{**plan, **settings}) as other:
        other.iterate()
    found = again(there, change=change)
    assert found.exact
    assert torch.equal(found.other.weights, other.optimizer.flat)
    assert not torch.equal(found.other.weights, found.again.weights)
    assert found.other.report == UpdateReport(**other.ring.entries[-1].report)


def test_with_the_same_setting_it_is_the_same_update(tmp_path):
    with running("Pendulum-v1", count=4) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    assert torch.equal(again(there, change="clip=0.2").other.weights, there.entries[-1].after)
    with pytest.raises(UserError, match="hidden: that does not enter the update of this run"):
        again(there, change="hidden=64")
    with pytest.raises(UserError, match="minibatch_size = 3 does not divide"):
        again(there, change="minibatch_size=3")


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_advantages_are_estimated_anew_with_another_discount(gamma, tmp_path):
    with running("Pendulum-v1", count=2, length=8) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    entry = there.entries[-1]
    learner = make_learner(there.run, entry, replace(training.config, gamma=gamma, lam=0.0), training.config)
    reward, value = entry.learnt["rewards"].float(), entry.learnt["value"]
    # One step of TD: what nothing but the reward and the two values say.
    inside = reward[:-1] + gamma * value[1:] - value[:-1]
    torch.testing.assert_close(learner.task.batch.advantages.view(8, 2)[:-1], inside)


def test_what_was_not_finite_first_is_named(tmp_path):
    with running("Pendulum-v1", count=4) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    entry = there.entries[-1]

    def planted(**changes):
        learnt = {name: x.clone() for name, x in entry.learnt.items()}
        for name, value in changes.items():
            learnt[name].view(len(learnt["reward"]), -1)[1, 2] = value
        return again(replace(there, entries=[replace(entry, learnt=learnt, after=None, report=None)]))

    bad = planted(advantages=math.nan)
    assert (bad.again.not_finite, bad.exact) == ("advantages of the batch", True)
    assert bad.again.largest_advantages[0].where["environment"] == 2
    assert bad.again.largest_advantages[0].where["step"] == 1
    assert "not-finite" in bad.again.error
    assert planted(log_prob=math.inf).again.not_finite == "log_prob of the batch"
    assert not planted(advantages=1e3).exact, "in the run it failed, they say, and here it does not"
    # An observation that is not a number spoils what the policy says of it; no check of the batch looks there.
    learnt = dict(entry.learnt)
    learnt["inputs/vector"] = learnt["inputs/vector"].clone()
    learnt["inputs/vector"][1, 2] = math.nan
    found = again(replace(there, entries=[replace(entry, learnt=learnt)]))
    assert found.again.not_finite == "inputs.vector of the batch"
    # A step so long that no weight is finite afterwards: the second minibatch is the first to see it.
    long = again(there, change="learning_rate=1e39").other
    assert long.not_finite.startswith("parameter network.")
    assert long.not_finite.endswith("at the beginning of minibatch 1")
    assert "no log-prob is finite afterwards" in "\n".join(again(there, change="learning_rate=1e39").lines)
    # A loss that is finite and has a gradient that is not.
    steep = again(there, change="value_coefficient=1e38").other
    assert steep.not_finite.startswith("gradient of network.critic")
    assert steep.not_finite.endswith("of minibatch 0")


def test_samples_are_those_that_moved_most(tmp_path):
    with running("Pendulum-v1", count=4, learning_rate=0.05) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    entry, outcome = there.entries[-1], again(there).again
    changes = [abs(sample.log_prob_change) for sample in outcome.moved_most]
    advantages = [abs(sample.advantage) for sample in outcome.largest_advantages]
    assert len(changes) == len(advantages) == 5
    assert changes == sorted(changes, reverse=True)
    assert advantages == sorted(advantages, reverse=True)
    policy = training.policy
    with torch.no_grad():
        batch = make_learner(there.run, entry, training.config, training.config).task.batch
        moved = (policy.evaluate(batch).log_prob - batch.log_prob).abs()
    assert changes[0] == pytest.approx(float(moved.max()), rel=1e-4)
    at = outcome.moved_most[0].where
    index = at["step"] * 4 + at["environment"]
    assert index == int(moved.argmax())
    assert at["action"] == pytest.approx(entry.learnt["action"][at["step"], at["environment"]].tolist(), abs=1e-4)
    assert at["reward"] == float(entry.learnt["reward"][at["step"], at["environment"]])


def test_the_command_tells_what_there_is(tmp_path, capsys):
    run = str(tmp_path / "run")
    sizes = ["--environments", "2", "--rollout-length", "32", "--update.minibatch-size", "32", "--update.epochs", "10"]
    assert (
        main(
            [
                "train",
                "CartPole-v1",
                "--steps",
                "320",
                "--run",
                run,
                "--episodes",
                "1",
                "--episode-limit",
                "50",
                "--quiet",
                *sizes,
            ]
        )
        == 0
    )
    capsys.readouterr()
    before = {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()}
    assert main(["replay", run, "--set", "epochs=1"]) == 0
    told = capsys.readouterr().out
    assert "the same as in the run, bit for bit" in told.splitlines()[0]
    assert ["gradient", "steps", "20", "2"] in [line.split() for line in told.splitlines()]
    assert told.count("  log-prob by ") == 15
    assert main(["replay", run, "--iteration", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["iteration"], found["exact"], found["other"]) == (2, True, None)
    for wrong, said in {
        ("--iteration", "77"): "iteration 77 is not kept; choose --iteration from",
        ("--set", "target_kll=1"): "did you mean target_kl?",
    }.items():
        assert main(["replay", run, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert {file: file.read_bytes() for file in (tmp_path / "run").rglob("*") if file.is_file()} == before
    assert main(["replay", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
