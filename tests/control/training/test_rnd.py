"""A bonus for what is new: its size, its advantages beside those of the task, its own optimiser, exact in resume."""

import sys
from pathlib import Path

import control_tasks
import numpy as np
import pytest
import torch
from control_runs import configured, replayed, running, weights
from functional_shapes import JAX, Batched, Functional
from same_runs import PLAN, same_runs
from shapes_of_others import Manual, RslRl, Tensors

import proximo
from proximo.control.config import RndSettings
from proximo.control.models.rnd import Rnd, Shown
from proximo.control.own_parts import with_groups
from proximo.control.training import training as trainings
from proximo.control.training.tensor_rollout import TensorCollector
from proximo.control.verify import verify_control
from proximo.errors import UserError

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import key_and_door

ON = RndSettings(weight=0.5, gamma=0.9, features=16, learning_rate=1e-3)
VALID = np.ones((6, 4), bool)


def novelty(size=3, columns=None, **settings):
    settings = {**vars(ON), **settings}
    places = {"vector": torch.arange(size) if columns is None else torch.tensor(columns)}
    return Rnd(RndSettings(**settings), places, 4, 0.95, 2, 2, 7, torch.device("cpu"))


def rollout(seed=0, size=3, steps=6):
    drawn = torch.randn(steps + 1, 4, size, generator=torch.Generator().manual_seed(seed))
    return {"vector": drawn[:-1]}, {"vector": drawn[-1]}, np.ones((steps, 4), bool)


def test_advantages_of_the_bonus_are_discounted_sums_over_all_ends_in_deviations_of_the_return():
    """With a critic that says 0 and λ = 1: Σ γ^k b(t+k), b the predictor's squared error in what a step led to."""
    rnd = novelty(weight=2.0)
    rnd._lam = 1.0
    torch.nn.init.zeros_(rnd.critic[-1].weight)
    seen = rollout()
    rnd.see(Shown(*seen))
    found = rnd.advantages(Shown(*seen))
    with torch.no_grad():
        after = rnd.normalizer(torch.cat([seen[0]["vector"], seen[1]["vector"][None]])[1:])
        error = (rnd.predictor(after) - rnd.target(after)).pow(2).mean(-1).double()
    sums, returns = torch.zeros(4).double(), []
    for each in error:
        sums = 0.9 * sums + each
        returns.append(sums)
    bonus = error / torch.stack(returns).std(correction=0)
    for t in range(6):
        expected = 2 * sum(0.9**k * bonus[t + k] for k in range(6 - t))
        assert found[t].double().numpy() == pytest.approx(expected.numpy(), rel=1e-4)


def test_what_is_seen_often_is_worth_less_than_what_is_new():
    rnd = novelty(learning_rate=1e-2)
    known, other = ([{"vector": sign * x["vector"].abs()} for x in rollout()[:2]] for sign in (1, -1))
    known, other = (*known, VALID), (*other, VALID)
    rnd.see(Shown(*known))
    rnd.advantages(Shown(*known))
    first = rnd._errors.mean()
    for _ in range(60):
        rnd.advantages(Shown(*known))
        told = rnd.learn()
    rnd.advantages(Shown(*known))
    left = rnd._errors.mean()
    rnd.advantages(Shown(*other))
    assert left < 0.1 * first
    assert rnd._errors.mean() > 3 * left
    assert told["rnd_error"] == pytest.approx(left, rel=0.5)


def test_statistics_move_after_each_rollout_and_the_sums_of_the_bonus_go_on_from_one_to_the_next():
    rnd, rollouts, errors = novelty(), [rollout(0), rollout(1), rollout(2)], []
    rnd.see(Shown(*rollouts[0]))
    errors.append(rnd._errors)
    for number, seen in enumerate(rollouts[1:], 1):
        before = rnd.normalizer.moments.mean.clone(), rnd.scaler.moments.squares.clone()
        rnd.advantages(Shown(*seen))
        errors.append(rnd._errors)
        assert torch.equal(rnd.normalizer.moments.mean, before[0])
        assert torch.equal(rnd.scaler.moments.squares, before[1])
        rnd.learn()
        raw = torch.cat([each[0]["vector"] for each in rollouts[: number + 1]]).flatten(0, 1).double()
        assert rnd.normalizer.moments.mean.numpy() == pytest.approx(raw.mean(0).numpy())
        sums, returns = np.zeros(4), []
        for each in np.concatenate(errors):
            sums = 0.9 * sums + each
            returns.append(sums)
        assert float(rnd.scaler.moments.scale()) == pytest.approx(np.sqrt(np.var(returns) + 1e-8))


def test_the_critic_learns_what_is_still_to_come_from_where_a_step_began():
    rnd, seen = novelty(learning_rate=3e-3), rollout()
    rnd.see(Shown(*seen))
    rnd.advantages(Shown(*seen))
    places, due = rnd._seen[:-1], rnd._returns

    def missed():
        return float((rnd.critic(places).squeeze(-1) - due).square().mean())

    before = missed()
    for _ in range(40):
        rnd.advantages(Shown(*seen))
        rnd._returns = due
        rnd.learn()
    assert missed() < 0.1 * before


def test_a_share_of_the_samples_teaches_and_the_others_do_not():
    """At one step of the whole rollout the gradient is the mean over those that were drawn."""
    rnd, seen = novelty(share=0.25), rollout()
    rnd._epochs = rnd._minibatches = 1
    rnd.see(Shown(*seen))
    rnd.advantages(Shown(*seen))
    reached = rnd._seen[1:].flatten(0, 1)
    torch.randperm(24, generator=(drawn := torch.Generator().manual_seed(7)))
    taught = torch.rand(24, generator=drawn) < 0.25
    assert 0 < taught.sum() < 24
    order = torch.randperm(24, generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        errors = (rnd.predictor(reached) - rnd.target(reached)).square().mean(-1)[order]
    assert rnd.learn()["rnd_error"] == pytest.approx(float(errors[taught].mean()), rel=1e-5)


def test_units_of_an_observation_change_nothing_and_far_ones_are_clipped():
    plain, scaled, far = (novelty() for _ in range(3))
    inputs, last, valid = rollout()
    plain.see(Shown(inputs, last, valid))
    moved = [{"vector": 1000.0 * x["vector"].double() - 70.0} for x in (inputs, last)]
    scaled.see(Shown(*moved, valid))
    assert scaled.advantages(Shown(*moved, valid)).numpy() == pytest.approx(
        plain.advantages(Shown(inputs, last, valid)).numpy(), rel=1e-3
    )
    far.see(Shown(inputs, last, valid))
    beyond = [
        far.advantages(Shown({"vector": torch.full((6, 4, 3), x)}, {"vector": torch.full((4, 3), x)}, valid))
        for x in (1e3, 1e6)
    ]
    assert torch.equal(*beyond)


def test_a_row_that_only_reports_a_reset_is_worth_nothing_and_teaches_nothing():
    one, two = novelty(), novelty()
    inputs, last, valid = rollout()
    valid[2:4, 1] = False
    odd = {"vector": inputs["vector"].clone()}
    odd["vector"][3, 1] = 4.0  # what a row led to and where one began that both count for nothing
    for rnd, seen in ((one, inputs), (two, odd)):
        rnd.see(Shown(inputs, last, valid))
        rnd.advantages(Shown(seen, last, valid))
        assert rnd._errors[2, 1] == 0
        rnd._returns.zero_()  # those of rows before may differ by what the critic said of it
        rnd.learn()
    assert torch.equal(one.optimizer.flat, two.optimizer.flat)


def test_a_step_that_ends_an_episode_is_paid_for_the_state_that_it_reached_and_one_that_is_unknown_is_left_out():
    one, two, known = novelty(), novelty(), novelty()
    inputs, last, valid = rollout()
    fresh = np.zeros_like(valid)
    fresh[1, 2] = fresh[5, 0] = True  # what is observed after these begins another episode
    odd = {"vector": inputs["vector"].clone()}, {"vector": last["vector"].clone()}
    odd[0]["vector"][2, 2] = odd[1]["vector"][0] = 4.0
    states = (1, 2, inputs["vector"][2, 2:3]), (5, 0, last["vector"][:1])
    reached = [(step, np.array([row]), {"vector": x}) for step, row, x in states]
    for rnd, seen, ends in ((one, (inputs, last), ()), (two, odd, ()), (known, odd, reached)):
        rnd.see(Shown(inputs, last, valid))
        whole = rnd._errors
        rnd.advantages(Shown(*seen, valid, fresh, ends))
    assert one._errors[1, 2] == two._errors[1, 2] == one._errors[5, 0] == 0
    for rnd in (one, two):  # which learn nothing of what is unknown, whatever comes after it
        rnd._returns.zero_()
        rnd._seen[2, 2], rnd._seen[6, 0] = one._seen[2, 2], one._seen[6, 0]
    plain = novelty()
    plain.see(Shown(inputs, last, valid))
    plain.advantages(Shown(inputs, last, valid))
    assert known._errors.tolist() == plain._errors.tolist() == whole.tolist()
    one.learn()
    two.learn()
    assert torch.equal(one.optimizer.flat, two.optimizer.flat)
    broken = novelty()
    broken.see(Shown(inputs, last, valid))
    nan = [(step, rows, {"vector": x["vector"] * torch.nan}) for step, rows, x in reached]
    assert broken.advantages(Shown(*odd, valid, fresh, nan)).isfinite().all()
    assert broken._errors[1, 2] == 0


def test_a_step_that_is_left_out_is_neither_better_nor_worse_than_the_critic_expects():
    """With λ = 0 an advantage is the TD error of its step alone."""
    rnd, (inputs, last, valid) = novelty(), rollout()
    rnd._lam = 0.0
    rnd.see(Shown(inputs, last, valid))
    fresh = np.zeros_like(valid)
    fresh[3, 1] = True
    found = rnd.advantages(Shown(inputs, last, valid, fresh))
    assert found[3, 1] == pytest.approx(0, abs=1e-6)
    assert (found.abs() > 1e-4).sum() == 23


class Functionals(Batched):
    def __init__(self):
        super().__init__(Functional())


HIDDEN = {"truncation": "previous"}
WORLDS = {
    "gymnasium": (lambda: Tensors(kind=np.ndarray), {}, False),
    "tensors": (Tensors, {}, False),
    "rsl_rl": (RslRl, {"observations": {"actor": ("policy",)}}, False),
    "rsl_rl, reset by hand": (Manual, {"observations": {"actor": ("policy",)}}, False),
    "rsl_rl, hidden": (lambda: RslRl(final=False), {"observations": {"actor": ("policy",)}, **HIDDEN}, True),
    "jax": (Functionals, {"observations": {"actor": ("state",)}}, True),
}


@pytest.mark.parametrize("on_device", [True, False], ids=["tensors", "numpy"])
@pytest.mark.parametrize("world", WORLDS)
def test_what_is_new_is_what_each_step_reached_in_environments_of_every_shape(world, on_device, monkeypatch):
    """All show the steps taken and pay one more; a state that ends an episode of JAX's for good is a NaN."""
    monkeypatch.setitem(sys.modules, "jax", JAX)
    if not on_device:
        monkeypatch.setattr(trainings, "stays_on_device", lambda policy: False)
    make, settings, some_hidden = WORLDS[world]
    with running(make, count=4, length=12, closed_form=False, update={"minibatch_size": 24}, rnd=ON, **settings) as t:
        stays = on_device and world not in ("gymnasium", "rsl_rl, reset by hand")
        assert isinstance(t.collector, TensorCollector) == stays
        t.rnd.normalizer.forward = lambda x: x
        rollout = t.collect()
        t.estimate(rollout)
        counted, reached = t.rnd._counted, t.rnd._reached[..., 0].numpy()
    over = rollout.terminated | rollout.truncated
    assert (reached == rollout.reward - 1)[counted].all()
    assert counted[~over].all()
    assert over.sum() > 8
    if world == "jax":
        assert (counted == ~rollout.terminated).all()
    else:
        assert counted[over].all() != some_hidden
    assert some_hidden == (not counted.all())


def test_only_the_columns_that_are_named_are_seen():
    rnd = novelty(columns=[0, 2])
    inputs, last, valid = rollout()
    rnd.see(Shown(inputs, last, valid))
    other = [{"vector": x["vector"] * torch.tensor([1.0, 9.0, 1.0])} for x in (inputs, last)]
    assert torch.equal(rnd.advantages(Shown(inputs, last, valid)), rnd.advantages(Shown(*other, valid)))


def test_the_bonus_is_added_to_the_advantages_alone_each_time_that_they_are_estimated():
    with running(control_tasks.ring, rnd=ON) as training:
        rollout = training.collect()
        batch, estimator = training.estimate(rollout), training.estimator
        bonus, estimator.bonus = estimator.bonus, None
        plain = estimator.batch(rollout, torch.from_numpy(training._rewards(rollout)))
        estimator.bonus = bonus
        again = estimator.reestimate(plain)
    assert bonus.abs().max() > 0.1
    for each in (batch, again):
        assert (each.advantages - plain.advantages).numpy() == pytest.approx(bonus.flatten().numpy(), abs=1e-5)
        assert torch.equal(each.returns, plain.returns)


@pytest.mark.parametrize("closed_form", [True, False], ids=["closed form", "autograd"])
def test_a_bonus_of_no_weight_to_speak_of_leaves_every_bit_as_it_was(closed_form):
    """So nothing but the advantages knows of it."""
    learnt = []
    for rnd in ({}, {"weight": 1e-30}):
        settings = {"normalizers": {"observations": True}, "closed_form": closed_form}
        with running(control_tasks.ring, rnd=RndSettings(**rnd), **settings) as training:
            for _ in range(3):
                training.iterate()
            assert (training.rnd is not None) == bool(rnd)
            assert (training.closed_form is not None) == closed_form
            learnt.append(weights(training))
    assert torch.equal(*learnt)


@pytest.mark.parametrize("closed_form", [True, False], ids=["closed form", "autograd"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(closed_form, tmp_path):
    activation = "tanh" if closed_form else "silu"  # of which there is no closed form
    plan = {**PLAN, "network": {"hidden": [16], "activation": activation}, "rnd": {"weight": 0.5}}
    whole = proximo.train("CartPole-v1", run=str(tmp_path / "whole"), **plan)
    for stop_at in (0, 64 * 2, 64 * 5, 64 * 6 + 1):
        assert proximo.train("CartPole-v1", run=str(tmp_path / "stopped"), stop_at=stop_at, **plan).stopped == "stop-at"
    same_runs(whole, proximo.train("CartPole-v1", run=str(tmp_path / "stopped"), **plan))
    told = proximo.metrics(whole.path)
    assert all(row["rnd_bonus"] > 0 and row["rnd_error"] > 0 for row in told)
    assert proximo.load(whole.path).act(np.zeros(4, np.float32)) in (0, 1)


@pytest.mark.parametrize("memory", ["none", "gru"])
def test_an_update_with_a_bonus_is_repeated_to_the_last_bit(memory, tmp_path):
    settings = {"network": {"memory": memory}, "update": {"recompute_advantages": memory == "none"}}
    with running(control_tasks.ring, rnd=ON, **settings) as training:
        for _ in range(2):
            training.iterate()
        training.ring.write(tmp_path)
    for found in replayed(tmp_path):
        assert found.exact, found.verdict


def test_an_iteration_that_is_given_up_leaves_no_trace():
    with running(control_tasks.ring, rnd=ON) as training, running(control_tasks.ring, rnd=ON) as other:
        for each in (training, other):
            each.iterate()
        training.before.remember()
        training.estimate(training.collector.collect())
        assert training.rewind()
        assert training.bring_back() == []
        told = [{k: x for k, x in each.iterate().items() if not k.startswith("seconds")} for each in (training, other)]
        assert told[0] == told[1]


def test_the_critic_s_parts_may_be_what_is_new():
    groups = {"actor": ("state",), "critic": ("privileged_state",), "rnd": ("privileged_state",)}
    with running(control_tasks.burdened, observations=groups, rnd=ON) as training:
        assert list(training.rnd._columns) == ["critic.vector"]
        assert training.iterate()["rnd_bonus"] > 0


OWN = {"actor": ("state",), "rnd": ("privileged_state", "state")}


@pytest.mark.parametrize("kind", ["plain", "gru", "critic"])
def test_what_nobody_else_sees_may_be_what_is_new_and_moves_no_action_and_no_value(kind, tmp_path):
    network = {"memory": "gru" if kind == "gru" else "none"}
    groups = OWN | ({"critic": ("state",)} if kind == "critic" else {})
    with running(control_tasks.burdened, observations=groups, rnd=ON, network=network) as training:
        assert list(training.rnd._columns) == ["vector", "rnd.vector"]
        assert training.policy.observations.vector_size == 1
        rollout = training.collect()
        assert not any(name.startswith("rnd.") for x in (rollout.inputs, rollout.last_inputs) for name in x)
        assert torch.equal(rollout.beside["rnd.vector"][..., 1], rollout.inputs["vector"][..., 0])
        training.estimate(rollout)
        assert training.rnd._raw.shape[-1] == 3
        for _ in range(2):
            assert training.iterate()["rnd_bonus"] > 0
        training.ring.write(tmp_path)
    for found in replayed(tmp_path):
        assert found.exact, found.verdict
    config = configured(count=2, environment="a test's", observations=groups, rnd=ON, network=network)
    assert verify_control(config, 2, control_tasks.burdened).exact


def test_a_run_whose_novelty_is_its_own_is_evaluated_and_loaded_with_the_actors_part(tmp_path):
    call = {"steps": 128, "environments": 2, "rollout_length": 32, "episodes": 2, "update": {"minibatch_size": 64}}
    run = proximo.train(control_tasks.burdened, progress="quiet", run=tmp_path, observations=OWN, rnd=vars(ON), **call)
    assert np.isfinite(run.results["final_deterministic"])
    assert proximo.load(run.path).act({"state": np.float32([0.5])}).shape == (1,)


@pytest.mark.parametrize("normalised", [False, True])
def test_what_is_new_to_nobody_else_is_read_on_the_device_as_numpys_path_reads_it(normalised, monkeypatch):
    plan = {"count": 4, "length": 12, "closed_form": False, "update": {"minibatch_size": 24}, "rnd": ON}
    plan |= {"observations": {"actor": ("policy",), "rnd": ("critic",)}, "normalizers": {"observations": normalised}}
    told = []
    for on_device in (True, False):
        if not on_device:
            monkeypatch.setattr(trainings, "stays_on_device", lambda policy: False)
        with running(RslRl, **plan) as training:
            assert isinstance(training.collector, TensorCollector) == on_device
            rows = [training.iterate() for _ in range(2)]
            told.append([{k: x for k, x in row.items() if not k.startswith("seconds")} for row in rows])
    assert told[0] == told[1]
    assert told[0][-1]["rnd_bonus"] > 0


def test_the_set_of_rsl_rl_for_rnd_is_understood():
    groups = {"policy": ["state"], "rnd_state": ["state", "command"]}
    assert with_groups({"obs_groups": groups}) == {"observations": {"actor": ("state",), "rnd": ("state", "command")}}


def test_what_can_not_be_is_refused_in_one_sentence():
    with pytest.raises(UserError, match="is an image"), running(control_tasks.catch, rnd=ON):
        pass
    groups = {"actor": ("state",), "rnd": ("privileged",)}
    with (
        pytest.raises(UserError, match=r"observations names 'privileged'.*did you mean privileged_state"),
        running(control_tasks.burdened, observations=groups, rnd=ON),
    ):
        pass
    with (
        pytest.raises(UserError, match=r"rnd\.weight is 0"),
        running(control_tasks.burdened, observations={"actor": ("state",), "rnd": ("state",)}),
    ):
        pass
    for name, value in {"weight": -1, "gamma": 1.0, "share": 0, "features": 0}.items():
        with pytest.raises(ValueError, match=rf"rnd\.{name} = {value}"):
            configured(rnd=RndSettings(**{name: value}))


def test_what_can_do_nothing_without_a_bonus_is_told_and_trains_all_the_same(tmp_path, capfd):
    plan = {"steps": 128, "environments": 2, "rollout_length": 32, "minibatches": 2, "progress": "quiet"}
    settings = {"rnd": {"gamma": 0.9, "share": 0.5}, "start_with": ["policy"]}
    proximo.train("CartPole-v1", run=str(tmp_path / "told"), **plan, **settings)
    said = capfd.readouterr().err
    assert "rnd.gamma and rnd.share can do nothing while rnd.weight is 0" in said
    assert "start_with = ['policy'] can do nothing without start_from" in said
    proximo.train("CartPole-v1", run=str(tmp_path / "used"), **plan, rnd={"weight": 0.5, "gamma": 0.9})
    assert "can do nothing" not in capfd.readouterr().err


def test_a_key_and_a_door_pay_at_the_goal_alone_and_what_is_new_pays_on_the_way(tmp_path):
    task, (left, up, right, down, use) = key_and_door.make(2), (3, 0, 2, 1, 4)
    task.reset()
    fetch = [left] * 7 + [up] * 7 + [use]
    reach = [down] * 7 + [right] * 7 + [use] + [right] * 2 + [up] * 7 + [right] * 7
    for number, action in enumerate([*fetch, *reach], 1):
        _, reward, over, cut, _ = task.step(np.array([action, use]))  # who only tries to use what is not there stays
        assert list(reward) == [float(number == len(fetch) + len(reach)), 0.0]
        assert not cut.any()
    assert list(over) == [True, False]
    run = key_and_door.main(8192, str(tmp_path / "run"))
    rows = proximo.metrics(run.path)
    assert {row["reward_mean"] for row in rows} == {0.0}
    assert all(row["rnd_bonus"] > 0 for row in rows)


@pytest.mark.slow
def test_the_key_task_is_solved_with_the_bonus_and_not_without_it(tmp_path):
    """Seeds 0 to 2 are in docs/exploration.md."""
    found = [key_and_door.main(run=str(tmp_path / f"{weight}"), seed=3, weight=weight) for weight in (0.5, 0.0)]
    assert found[0].results["final_sampled"] == 1.0
    assert found[1].results["final_sampled"] == 0.0
