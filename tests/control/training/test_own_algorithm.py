"""Losses and algorithms of the user's own: learnt by, reported, stored, replayed and resumed."""

import tomllib
from contextlib import ExitStack
from dataclasses import replace

import control_tasks
import own_modules
import pytest
import torch
import warm
from control_runs import configured, running, weights
from same_runs import PLAN, same_runs

import proximo
from proximo.algorithms.ppo import PPO
from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.training.replay import replay_world
from proximo.control.training.training import Training
from proximo.core.advantages import gae
from proximo.errors import UserError
from proximo.runs import new_process
from proximo.runs.config.toml import difference, from_mapping, read_toml, to_toml
from proximo.runs.replay.entry import read
from proximo.runs.replay.report import replay

TASK = {"number": 5, "actions": "box"}


def learnt(algorithm, **settings):
    """The training after two iterations with this algorithm, and their metrics."""
    config = configured(options=TASK, **settings)
    config = replace(config, update=algorithm(**vars(config.update)) if isinstance(algorithm, type) else algorithm)
    training = Training(config, make_environments(control_tasks.probe, config.environments, options=TASK))
    training.start()
    return training, [training.iterate() for _ in range(2)]


def test_a_term_of_weight_zero_changes_nothing_and_is_reported():
    with running(control_tasks.probe, options=TASK, closed_form=False) as plain:
        rows = [plain.iterate() for _ in range(2)]
    training, own = learnt(own_modules.Anchored)
    assert training.closed_form is not None, "it acts by it; the gradient is autograd's"
    torch.testing.assert_close(weights(training), weights(plain), rtol=1e-5, atol=1e-6)
    for row, other in zip(own, rows, strict=True):
        assert row["anchor"] > 0
        assert row["policy_loss"] == pytest.approx(other["policy_loss"], abs=1e-5)


def test_a_term_has_its_gradient():
    """Against the same term worked out by torch on the whole batch, one epoch of one minibatch."""
    one = {"epochs": 1, "minibatch_size": 128, "max_grad_norm": None}
    config = configured(options=TASK, update=one)
    gradients = []
    for anchor in (0.0, 2.0):
        algorithm = own_modules.Anchored(**vars(config.update), anchor=anchor)
        training = Training(replace(config, update=algorithm), make_environments(control_tasks.probe, 8, options=TASK))
        training.start()
        rollout = training.collect()
        batch = training.estimate(rollout)
        expected = training.policy.evaluate(batch).value.square().mean()
        wanted = torch.autograd.grad(expected, training.policy.parameters_by_layer(), allow_unused=True)
        algorithm.gradient(training.task(rollout, batch, 0.0))(batch)
        gradients.append(training.optimizer.gradient.clone())
    parameters = training.policy.parameters_by_layer()
    there = [torch.zeros_like(p) if g is None else g for g, p in zip(wanted, parameters, strict=True)]
    wanted = torch.cat([x.flatten() for x in there])
    torch.testing.assert_close(gradients[1] - gradients[0], 2.0 * wanted, rtol=1e-4, atol=1e-5)


def test_an_estimate_of_ones_own_is_what_is_learnt_from(monkeypatch):
    training, _ = learnt(own_modules.MonteCarlo, update={"epochs": 2})
    rollout = training.collect()
    batch = training.estimate(rollout)
    rewards, ends = torch.from_numpy(rollout.reward), torch.from_numpy(rollout.terminated)
    zeros = torch.zeros_like(rewards)
    expected, _ = gae(rewards, zeros, zeros, ends, torch.from_numpy(rollout.done), gamma=0.99, lam=1.0)
    assert torch.equal(batch.advantages, expected.to(batch.advantages).flatten())
    # The loss is PPO's own, so its gradient is still the one derived by hand.
    assert training.closed_form is not None
    assert type(training.algorithm).loss is PPO.loss


@pytest.mark.parametrize("algorithm", [own_modules.Anchored(anchor=0.5, minibatch_size=64), own_modules.MonteCarlo()])
def test_a_replay_knows_the_algorithm(algorithm, tmp_path):
    training, _ = learnt(algorithm)
    training.ring.write(tmp_path / "replay")
    there = read(tmp_path / "replay")
    with ExitStack() as stack:
        world = replay_world(there, stack)
        assert world.config.update == algorithm
        assert replay(there, there.choose(None), world, None).exact


@pytest.mark.parametrize(
    "given",
    [PPO, PPO(epochs=2, minibatch_size=32), "proximo.algorithms:PPO", own_modules.Plain, own_modules.Plain(epochs=2)],
    ids=["PPO", "PPO()", "by name", "a plain subclass", "an instance of one"],
)
def test_it_is_given_as_a_class_or_an_instance_and_is_the_same_run_again(given, tmp_path):
    plan = {key: value for key, value in PLAN.items() if key != "update" or isinstance(given, type | str)}
    plan |= {"environments": 4, "rollout_length": 16}
    whole = proximo.train("CartPole-v1", given, run=tmp_path / "whole", **plan)
    assert proximo.train("CartPole-v1", given, run=tmp_path / "half", stop_at=300, **plan).stopped
    same_runs(whole, proximo.train("CartPole-v1", given, run=tmp_path / "half", **plan))
    assert proximo.train("CartPole-v1", given, run=tmp_path / "whole", **plan).finished_before
    assert proximo.replay(whole).exact
    trainer = proximo.Trainer("CartPole-v1", given, run=tmp_path / "left", **plan)
    for _ in trainer:
        break
    same_runs(whole, trainer.to_the_end())


def test_settings_that_dataclasses_do_not_know_are_refused(tmp_path):
    for given in (own_modules.Undecorated, own_modules.Undecorated()):
        with pytest.raises(UserError, match=r"Undecorated has settings of its own: write @dataclass\(frozen=True\)"):
            proximo.train("CartPole-v1", given, run=tmp_path / "r")
    with pytest.raises(UserError, match="algorithm Ours must be a frozen dataclass"):
        proximo.train("CartPole-v1", own_modules.Ours, run=tmp_path / "r")


def test_statistics_go_by_their_names():
    """In another order in each minibatch, in some of them only, as plain numbers, and not finite."""
    training, rows = learnt(own_modules.Talkative, update={"micro_batches": 4})
    plain, expected = learnt(own_modules.Anchored, update={"micro_batches": 4})
    for row, other in zip(rows, expected, strict=True):
        assert (row["seven"], row["some"]) == (7.0, 3.0)
        assert row["nothing"] != row["nothing"]
        assert row["entropy"] == pytest.approx(other["entropy"], rel=1e-5)
        assert row["approx_kl"] == pytest.approx(other["approx_kl"], abs=1e-6)
    assert torch.equal(weights(training), weights(plain))


def test_an_estimate_of_another_shape_is_refused():
    with pytest.raises(UserError, match=r"estimate of Flat gives shapes \[\(8,\), \(8,\)\].*rewards' shape \(16, 8\)"):
        learnt(own_modules.Flat)


def test_the_settings_of_ones_own_are_written_and_read_back():
    config = replace(configured(), update=own_modules.Anchored(anchor=0.25, clip=0.1))
    text = to_toml(config)
    assert 'algorithm = "own_modules:Anchored"' in text
    assert "anchor = 0.25" in text
    assert from_mapping(TrainConfig, tomllib.loads(text), where="here") == config
    plain = replace(config, update=PPO(clip=0.1))
    assert "algorithm" not in to_toml(plain)
    assert difference(plain, config) == [("update.algorithm", "", "own_modules:Anchored")]
    with pytest.raises(UserError, match=r"unknown key 'update\.ancho' in here: did you mean 'update\.anchor'"):
        from_mapping(TrainConfig, {"update": {"algorithm": "own_modules:Anchored", "ancho": 1}}, where="here")
    with pytest.raises(UserError, match=r"must be a frozen dataclass that is derived from proximo\.algorithms\.PPO"):
        from_mapping(TrainConfig, {"update": {"algorithm": "own_modules:Ours"}}, where="here")


def test_a_class_takes_the_presets_numbers_and_keeps_the_defaults_that_it_changes(tmp_path):
    """The tuned preset of Pendulum has other numbers than PPO's defaults; MonteCarlo says two epochs itself."""
    plain = proximo.Trainer("Pendulum-v1", steps=128).config
    given = proximo.Trainer("Pendulum-v1", own_modules.MonteCarlo, steps=128, update={"clip": 0.05}).config
    assert type(given.update) is own_modules.MonteCarlo
    assert given.update.epochs == 2 != plain.update.epochs
    assert given.update.clip == 0.05
    assert given.update.minibatch_size == plain.update.minibatch_size
    whole = proximo.Trainer("Pendulum-v1", own_modules.Anchored(anchor=0.5), steps=128).config
    assert whole.update == own_modules.Anchored(anchor=0.5)


def test_a_run_with_an_algorithm_of_ones_own_stops_and_resumes(tmp_path, monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    plan = {**PLAN, "update": {**PLAN["update"], "anchor": 0.1}}
    whole = proximo.train("CartPole-v1", own_modules.Anchored, run=tmp_path / "whole", **plan)
    proximo.train("CartPole-v1", own_modules.Anchored, run=tmp_path / "half", stop_at=300, **plan)
    half = proximo.train("CartPole-v1", own_modules.Anchored, run=tmp_path / "half", **plan)
    same_runs(whole, half)
    assert all(row["anchor"] > 0 for row in proximo.metrics(whole.path))
    assert read_toml(whole.path / "config.toml")["update"]["anchor"] == 0.1
    assert proximo.replay(whole.path, change="anchor=0").exact
    assert proximo.verify_resume(whole.path, 1).exact
    assert proximo.diagnose(whole.path).health in ("green", "amber", "red")
    other = proximo.train("CartPole-v1", own_modules.MonteCarlo, run=tmp_path / "whole", **PLAN)
    assert (other.path.name, other.finished_before) == ("whole-2", False)


def test_nothing_is_found_wrong_with_a_critic_that_there_is_not(tmp_path):
    plan = {**PLAN, "steps": 64 * 30}
    run = proximo.train("CartPole-v1", own_modules.MonteCarlo, run=tmp_path / "without", **plan)
    assert {row["explained_variance"] for row in proximo.metrics(run.path)} == {None}
    assert not {"P030", "P031", "P032"} & {d.finding.code.number for d in proximo.diagnose(run.path).diagnoses}
    plan["update"] = {**plan["update"], "value_coefficient": 0.0}
    run = proximo.train("CartPole-v1", run=tmp_path / "with", **plan)
    assert "P032" in {d.finding.code.number for d in proximo.diagnose(run.path).diagnoses}


def test_the_exact_kl_is_that_of_the_two_policies():
    """Of the old and the new policy over the rollout's states, worked out from their distributions here."""
    with running(control_tasks.probe, options=TASK, update={"minibatch_size": 128}) as training:
        batches, estimate = [], training.estimate
        training.estimate = lambda rollout: batches.append(estimate(rollout)) or batches[-1]
        training.iterate()
        before = training.optimizer.flat.detach().clone()
        row = training.iterate()
        after, policy, batch = training.optimizer.flat.detach().clone(), training.policy, batches[-1]
        with torch.no_grad():
            new = policy.evaluate(batch).distribution
            training.optimizer.flat.copy_(before)
            old = policy.evaluate(batch).distribution
            training.optimizer.flat.copy_(after)
            expected = float(old.kl(new).mean())
    assert row["exact_kl"] == pytest.approx(expected, rel=1e-5)
    assert expected > 1e-4
