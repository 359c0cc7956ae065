"""What the truth meter is told of a control iteration, on sound runs and on runs that are broken on purpose."""

from dataclasses import replace

import control_tasks as tasks
import numpy as np
import pytest
import torch
from control_runs import running

from proximo.control.doctor_rules import KIND
from proximo.control.models.normalizers import RewardScaler
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.rollout import Collector
from proximo.control.training.training import Training
from proximo.control.training.vital_signs import fingerprint, vital_signs
from proximo.core.statistics import RunningMoments
from proximo.runs.doctor import invariants
from proximo.runs.doctor.record import Record
from proximo.runs.health import TruthMeter

NORMALIZED = {"normalizers": {"observations": True, "rewards": "scale"}}


def found(training, iterations=3):
    """Codes that the meter finds in some iterations."""
    meter = TruthMeter()
    return {f.code.number for _ in range(iterations) for f in meter.judge(training.iterate()).findings}


@pytest.mark.parametrize("mode", ["same", "next", "disabled"])
@pytest.mark.parametrize("limit", [5, 16])  # in the middle of a rollout, and at its very end
def test_a_sound_run_is_green_in_every_autoreset_mode(mode, limit):
    with running(tasks.steady_vector, options={"mode": mode, "limit": limit}, count=8, **NORMALIZED) as training:
        assert found(training) == set()


def test_counts_of_scripted_episodes():
    """Of 16 steps, one environment spends 3, 5 (cut), 4, 3 (cut), the other 5, 4 (cut), 3."""
    with running(tasks.scripted_vector, count=2, length=16) as training:
        seen = training.iterate()
    assert (seen["terminations"], seen["truncations"], seen["truncations_missed"]) == (4, 3, 0)
    assert seen["reset_row_weight"] == 0.0


def test_a_normalizer_that_moves_inside_the_iteration_is_seen(monkeypatch):
    whole = Training._rewards

    def moved(self, rollout):
        self.scaler.absorb(rollout.reward, rollout.terminated | rollout.truncated, rollout.valid)
        return whole(self, rollout)

    with running(tasks.scripted_vector, count=2, **NORMALIZED) as training:
        assert found(training, 1) == set()
        monkeypatch.setattr(Training, "_rewards", moved)
        assert found(training, 1) == {"P010"}


def test_a_normalizer_that_takes_nothing_in_is_seen(monkeypatch):
    with running(tasks.scripted_vector, count=2, **NORMALIZED) as training:
        monkeypatch.setattr(RunningMoments, "absorb", lambda *_: None)
        assert found(training, 1) == {"P011"}


def test_every_statistic_is_in_the_fingerprint():
    with running(tasks.scripted_vector, count=2, **NORMALIZED) as training:
        policy: ControlPolicy = training.policy
        scaler: RewardScaler = training.scaler
        for moments in (policy.normalizer.moments, policy.values.moments, scaler.moments):
            for tensor in (moments.count, moments.mean, moments.squares):
                before = fingerprint(policy, scaler)
                tensor.view(-1)[-1] += 1e-6
                assert not torch.equal(before, fingerprint(policy, scaler))


def test_reset_rows_that_weigh_something_are_seen(monkeypatch):
    with running(tasks.steady_vector, options={"mode": "next", "limit": 5}, count=8) as training:
        whole = training.estimator.batch
        monkeypatch.setattr(
            training.estimator, "batch", lambda *a: (b := whole(*a)).replace(weight=torch.ones_like(b.weight))
        )
        seen = training.iterate()
    assert seen["reset_row_weight"] == seen["reset_rows"] > 0


@pytest.mark.parametrize("mode", ["same", "disabled"])
def test_truncations_whose_last_state_is_lost_are_seen(monkeypatch, mode):
    whole = Collector._note
    monkeypatch.setattr(Collector, "_note", lambda self, t, step, memory, finals: whole(self, t, step, memory, []))
    with running(tasks.steady_vector, options={"mode": mode, "limit": 8}, count=8) as training:
        seen = training.iterate()
    assert seen["truncations_missed"] == seen["truncations"] == 16


@pytest.fixture
def faking(monkeypatch):
    """Plants the fault that the final observation is the next episode's first."""
    whole = Collector._note

    def note(self, t, step, memory, finals):
        if step.final_observation is not step.observation:
            step = replace(step, final_observation=np.array(step.observation))
        whole(self, t, step, memory, finals)

    return lambda: monkeypatch.setattr(Collector, "_note", note)


def test_a_final_observation_that_is_the_next_first_one_is_seen(faking):
    with running(tasks.scripted_vector, count=2) as training:
        assert training.iterate()["truncations_faked"] == 0
        faking()
        seen = training.iterate()
        assert seen["truncations_faked"] == seen["truncations"] > 0


def truncation_faults(training, iterations):
    """Colours of P014: of each iteration that has it, by the meter; and of the whole run, by the doctor."""
    run = Record({}, KIND, tuple(training.iterate() for _ in range(iterations)))
    told = [f.severity for verdict in run.verdicts for f in verdict.findings if f.code.number == "P014"]
    diagnosed = [d.finding.severity for d in invariants.meter(run) if d.finding.code.number == "P014"]
    return run, told, diagnosed


@pytest.mark.parametrize("count", [1, 16])
def test_an_episode_that_is_cut_where_the_next_one_starts_is_no_fault(count):
    """Ten steps in a ring of five cells: a policy that always goes one way ends where it started."""
    with running(tasks.ring, count=count) as training:
        run, told, diagnosed = truncation_faults(training, 30)
    assert run.column("truncations").sum() >= 4
    assert (told, diagnosed) == ([], [])


def test_last_states_that_are_always_the_first_ones_are_a_fault(faking):
    faking()
    with running(tasks.scripted_vector, count=2) as training:
        _, told, diagnosed = truncation_faults(training, 30)
    assert len(told) > 20
    assert {*told, *diagnosed} == {"red"}


def test_sizes_are_those_of_what_the_networks_see():
    with running(tasks.steady_vector, options={"limit": 10**6}, count=8, gamma=0.5) as training:
        rollout = training.collector.collect()
        batch = training.estimator.batch(rollout, torch.from_numpy(rollout.reward))
        seen = vital_signs(training.policy, rollout, batch)
    assert (seen["observation_rms"], seen["observation_max"]) == (1.0, 1.0)
    assert (seen["reward_mean"], seen["reward_std"]) == (1.0, 0.0)
    assert seen["return_rms"] == pytest.approx(float(batch.returns.square().mean().sqrt()), rel=1e-5)
    assert seen["value_rms"] == pytest.approx(float(batch.value.square().mean().sqrt()), rel=1e-5)
