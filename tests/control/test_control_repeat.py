"""An update of a control run done again is the same to the last bit, and with a setting changed that of such a run."""

import math
from contextlib import ExitStack
from dataclasses import replace

import control_tasks
import pytest
import torch
from control_runs import running

from proximo.control.repeat import replay_world
from proximo.core.update import update
from proximo.runs.replay.entry import read
from proximo.runs.replay.replay import replay

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
    "pixels": (control_tasks.catch, {"length": 8, "network": {"pixels": "impala"}}),
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


def test_with_a_setting_changed_it_is_the_update_of_a_run_with_that_setting(tmp_path):
    with running("Pendulum-v1", count=4, **SCALED) as training:
        training.iterate()
        before = {name: x.clone() for name, x in training.policy.state_dict().items()}
        training.iterate()
        there = kept(training, tmp_path / "replay")
    same = again(there, change="update.clip=0.2")
    assert torch.equal(same.other.weights, there.entries[-1].after)
    one = again(there, change="epochs = 1")
    assert (one.again.report.steps, one.other.report.steps) == (8, 2)
    # The same by hand: what the run would have done from there.
    entry, config = there.entries[-1], training.config
    training.policy.load_state_dict(before)
    entry.before.put_back(training.optimizer, {"shuffle": training.shuffle})
    training.closed_form.freeze()
    training.optimizer.learning_rate = 0.003
    settings = replace(training.settings, epochs=1)
    batch = again(there).again  # its batch is that of the run, as the same weights show
    assert batch.report.values == entry.report["values"]
    from proximo.control.repeat import make_learner

    learner = make_learner(there.run, entry, config)
    update(
        training.policy,
        learner.batch,
        training.optimizer,
        settings,
        generator=training.shuffle,
        gradient=training.closed_form.gradient,
    )
    with ExitStack() as stack:
        world = replay_world(there, stack)
        changed = replace(world, config=replace(world.config, update=replace(world.config.update, epochs=1)))
        found = replay(there, entry, changed, "learning_rate=0.003")
    assert torch.equal(found.other.weights, training.optimizer.flat)
    assert not torch.equal(found.again.weights, found.other.weights)


@pytest.mark.parametrize("gamma", [0.0, 0.5])
def test_advantages_are_estimated_anew_with_another_discount(gamma, tmp_path):
    with running("Pendulum-v1", count=2, length=8) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    entry = there.entries[-1]
    from proximo.control.repeat import make_learner

    learner = make_learner(there.run, entry, replace(training.config, gamma=gamma, lam=0.0))
    reward, value = entry.learnt["rewards"].float(), entry.learnt["value"]
    # One step of TD: what nothing but the reward and the two values say.
    inside = reward[:-1] + gamma * value[1:] - value[:-1]
    torch.testing.assert_close(learner.batch.advantages.view(8, 2)[:-1], inside)


def test_what_was_not_finite_first_is_named(tmp_path):
    with running("Pendulum-v1", count=4) as training:
        training.iterate()
        there = kept(training, tmp_path / "replay")
    entry = there.entries[-1]

    def planted(**changes):
        learnt = {name: x.clone() for name, x in entry.learnt.items()}
        for name, value in changes.items():
            learnt[name][1, 2] = value
        return again(replace(there, entries=[replace(entry, learnt=learnt, after=None, report=None)]))

    bad = planted(rewards=math.nan)
    assert (bad.again.not_finite, bad.exact) == ("advantages of the batch", True)
    assert bad.again.largest_advantages[0].where["environment"] == 2
    assert bad.again.largest_advantages[0].where["step"] <= 1
    assert "not-finite" in bad.again.error
    assert planted(log_prob=math.inf).again.not_finite == "log_prob of the batch"
    assert not planted(rewards=1e3).exact, "in the run it failed, they say, and here it does not"
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
        from proximo.control.repeat import make_learner

        batch = make_learner(there.run, entry, training.config).batch
        moved = (policy.evaluate(batch).log_prob - batch.log_prob).abs()
    assert changes[0] == pytest.approx(float(moved.max()), rel=1e-4)
    at = outcome.moved_most[0].where
    index = at["step"] * 4 + at["environment"]
    assert index == int(moved.argmax())
    assert at["action"] == pytest.approx(entry.learnt["action"][at["step"], at["environment"]].tolist(), abs=1e-4)
    assert at["reward"] == float(entry.learnt["reward"][at["step"], at["environment"]])
