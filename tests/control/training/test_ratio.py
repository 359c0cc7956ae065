"""The policy that is trained is the one that acted: the first minibatch's ratio is 1, in every iteration."""

import control_tasks
import pytest
import torch
from control_runs import running

from proximo.core.invariants import InvariantError, ratio_tolerance
from proximo.runs.health import TruthMeter

BOTH = {"observations": True, "rewards": "scale"}
CASES = {
    "closed form": (control_tasks.probe, {"options": {"number": 5}, "normalizers": BOTH}),
    "autograd": (control_tasks.probe, {"options": {"number": 5}, "normalizers": BOTH, "closed_form": False}),
    "box": (control_tasks.probe, {"options": {"number": 5, "actions": "box"}, "normalizers": BOTH}),
    "masked": (control_tasks.probe, {"options": {"number": 5, "actions": "masked"}, "normalizers": BOTH}),
    "masked dict": (
        control_tasks.probe,
        {"options": {"number": 5, "actions": "masked", "view": "dict"}, "closed_form": False},
    ),
    "pixels": (control_tasks.probe, {"options": {"number": 5, "view": "pixels"}}),
    "hybrid": (control_tasks.hybrid, {"normalizers": {"observations": True, "rewards": "return"}}),
    "gsde": (control_tasks.hybrid, {"normalizers": BOTH, "network": {"noise": "gsde", "noise_every": 3}}),
    "beta": (
        control_tasks.probe,
        {"options": {"number": 5, "actions": "box"}, "normalizers": BOTH, "network": {"actions": "beta"}},
    ),
    "everything": (control_tasks.everything, {"normalizers": {"observations": True, "rewards": "return"}}),
}
RECURRENT = {
    "noise of the state": (
        control_tasks.probe,
        {"options": {"number": 5, "actions": "box"}, "normalizers": BOTH, "network": {"noise": "state"}},
    ),
    "gru": (control_tasks.recall, {"network": {"memory": "gru"}, "normalizers": BOTH}),
    "gru, gsde": (control_tasks.hybrid, {"network": {"memory": "gru", "noise": "gsde"}, "normalizers": BOTH}),
    "lstm": (control_tasks.recall, {"network": {"memory": "lstm"}, "normalizers": BOTH}),
    "lstm on next-step": (
        control_tasks.steady_vector,
        {"network": {"memory": "lstm"}, "options": {"mode": "next", "limit": 7}, "normalizers": {"rewards": "return"}},
    ),
    "lstm, pixels": (control_tasks.catch, {"network": {"memory": "lstm"}, "count": 4}),
}


@pytest.mark.parametrize("kind", CASES)
def test_the_first_ratio_is_exactly_one_where_the_shapes_are_equal(kind):
    source, settings = CASES[kind]
    with running(source, **{**settings, "count": 8, "length": 4, "update": {"minibatch_size": 8}}) as training:
        deviations = [training.iterate() for _ in range(4)]
    assert [m["ratio_deviation"] for m in deviations] == [0.0] * 4
    assert all(m["approx_kl"] > 0 for m in deviations), "the policy moved, so the ratio could be off"


@pytest.mark.parametrize("kind", [*CASES, *RECURRENT])
def test_the_first_ratio_is_one_within_rounding(kind):
    source, settings = {**CASES, **RECURRENT}[kind]
    with running(source, **settings) as training:
        deviations = [training.iterate()["ratio_deviation"] for _ in range(3)]
    assert max(deviations) < ratio_tolerance(torch.float32) / 10


@pytest.mark.parametrize("kind", ["closed form", "autograd", "gru"])
def test_a_normaliser_that_moves_inside_the_iteration_is_noticed(kind, monkeypatch):
    source, settings = {**CASES, **RECURRENT}[kind]
    with running(source, **settings) as training:
        training.iterate()
        estimate = training.estimator.batch

        def meddling(rollout, rewards):
            batch = estimate(rollout, rewards)
            training.policy.normalizer.moments.absorb(2.0 * rollout.inputs["vector"] + 1.0)
            if training.closed_form:
                training.closed_form.freeze()
            return batch

        monkeypatch.setattr(training.estimator, "batch", meddling)
        with pytest.raises(InvariantError, match=r"ratio-not-one.*normaliser"):
            training.iterate()


def test_the_statistics_stand_still_from_the_first_step_to_the_last_minibatch():
    with running(control_tasks.probe, options={"number": 5}, normalizers=BOTH) as training:
        seen = []
        moments = training.policy.normalizer.moments
        gradient = training.closed_form.gradient

        def watched(*arguments):
            seen.append((float(moments.count), float(training.scaler.moments.count)))
            return gradient(*arguments)

        training.closed_form.gradient = watched
        before = float(moments.count), float(training.scaler.moments.count)
        training.iterate()
    assert set(seen) == {before}
    assert float(moments.count) == before[0] + training.config.rollout_size


@pytest.mark.parametrize("kind", ["closed form", "autograd", "masked", "gru", "hybrid"])
@pytest.mark.parametrize("target_kl", [None, 0.03])
def test_a_step_that_is_far_too_large_is_seen_in_the_metrics(kind, target_kl):
    source, settings = {**CASES, **RECURRENT}[kind]
    settings = {"learning_rate": 1.0, "update": {"target_kl": target_kl, "epochs": 1 if target_kl is None else 4}}
    settings |= {"count": 4, **{**CASES, **RECURRENT}[kind][1]}
    if target_kl is None:
        settings["update"]["minibatch_size"] = 64  # one step, which no minibatch looks back at
    with running(source, **settings) as training:
        row = training.iterate()
    assert row["approx_kl"] < 1e-6, "all that is stepped on is the policy that acted"
    assert row["final_approx_kl"] > 0.3
    assert row.get("stopping_kl") == (row["final_approx_kl"] if target_kl else None)
    assert row["last_approx_kl"] == (row["final_approx_kl"] if target_kl else row["approx_kl"])
    assert "P020 step-too-large" in TruthMeter().judge(row).row["findings"]


@pytest.mark.parametrize("closed_form", [True, False])
def test_the_divergence_after_the_last_step_is_the_one_of_the_last_minibatch(closed_form, monkeypatch):
    options = {"number": 5, "actions": "masked"}
    update = {"minibatch_size": 128, "epochs": 2}  # the last minibatch is the whole batch
    with running(control_tasks.probe, options=options, closed_form=closed_form, update=update) as training:
        batches = []
        estimate = training.estimator.batch
        monkeypatch.setattr(
            training.estimator, "batch", lambda *arguments: batches.append(estimate(*arguments)) or batches[-1]
        )
        row = training.iterate()
        with torch.no_grad():
            log_ratio = (training.policy.evaluate(batches[0]).log_prob - batches[0].log_prob).double()
    expected = float((log_ratio.exp() - 1 - log_ratio).mean())
    assert expected > 1e-4
    assert row["final_approx_kl"] == pytest.approx(expected, rel=1e-3)


def precise(training, size, log_std=-5.0):
    """Its policy means actions far outside of the bounds and hardly strays from them, as one that is saturated does."""
    policy = training.policy
    with torch.no_grad():
        policy.network.actor_head.bias.fill_(size)
        policy.log_std.fill_(log_std)


@pytest.mark.parametrize("kind", ["box", "autograd box", "gru box", "hybrid"])
def test_a_policy_that_is_precise_and_saturated_is_no_fault(kind):
    source = control_tasks.hybrid if kind == "hybrid" else control_tasks.probe
    options = {} if kind == "hybrid" else {"number": 5, "actions": "box"}
    network = {"memory": "gru" if kind == "gru box" else "none", "hidden": (256, 256)}
    with running(source, options=options, closed_form=kind == "box", network=network, learning_rate=1e-6) as training:
        precise(training, 100.0)
        estimate, head = training.estimator.batch, training.policy.network.actor_head

        def meddling(rollout, rewards):
            batch = estimate(rollout, rewards)
            with torch.no_grad():
                head.weight.mul_(scale)
                head.bias.mul_(scale).add_(shift)
            return batch

        training.estimator.batch = meddling
        scale, shift = 1 + 2**-20, 0.0  # a few more roundings of every sum, on whatever processor
        assert training.iterate()["ratio_deviation"] > ratio_tolerance(torch.float32)
        scale, shift = 1.0, 0.05  # and a policy that really is another one
        with pytest.raises(InvariantError, match="ratio-not-one"):
            training.iterate()
