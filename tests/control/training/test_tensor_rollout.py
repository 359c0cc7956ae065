"""Environments of tensors are stepped without leaving their device, and what is learnt is what NumPy's path learns."""

import sys

import numpy as np
import pytest
import torch
from control_runs import replayed, running, weights
from functional_shapes import JAX, Batched, Functional
from shapes_of_others import Groups, RslRl, Tensors

from proximo.control.models.device import WIDE
from proximo.control.training import training as trainings
from proximo.control.training.tensor_rollout import TensorCollector
from proximo.errors import UserError

GROUPS = {"observations": {"actor": ("policy",), "critic": ("critic", "policy")}}
KINDS = {
    "plain": {},
    "normalised": {"normalizers": {"observations": True, "rewards": "scale"}},
    "gru": {"network": {"memory": "gru", "memory_size": 8}},
    "gymnasium": {"source": Tensors, "observations": {}},
}
LEAVING = ("cpu", "numpy", "item", "tolist", "__bool__", "__float__", "__int__", "__index__", "nonzero")


def plan(**settings):
    return {"count": 4, "length": 12, "closed_form": False, "update": {"minibatch_size": 24}, **GROUPS, **settings}


def trained(source=RslRl, **settings):
    with running(source, **plan(**settings)) as training:
        rows = [training.iterate() for _ in range(3)]
        rollout = training.collect()
    return training, rows, rollout


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learnt_is_bit_for_bit_what_numpys_path_learns(kind, monkeypatch):
    there, rows, rollout = trained(**KINDS[kind])
    assert isinstance(there.collector, TensorCollector)
    monkeypatch.setattr(trainings, "stays_on_device", lambda policy: False)
    here, others, other = trained(**KINDS[kind])
    assert not isinstance(here.collector, TensorCollector)
    assert torch.equal(weights(there), weights(here))
    for name in ("reward", "terminated", "truncated", "valid", "starts", "last_starts"):
        assert (getattr(rollout, name) == getattr(other, name)).all()
    for name in ("action", "log_prob", "value"):
        assert torch.equal(getattr(rollout, name), getattr(other, name))
    assert [f.step for f in rollout.finals] == [f.step for f in other.finals]
    assert rollout.episodes == other.episodes
    assert len(rollout.episodes) > 8
    if kind == "gymnasium":
        assert rows[-1]["terminations"] > 0
        assert rows[-1]["truncations"] > 0
    for row, expected in zip(rows, others, strict=True):
        names = {name for name in row if not name.startswith("seconds/")}
        assert {name: row[name] for name in names} == {name: expected[name] for name in names}
    assert kind == "gymnasium" or rows[-1]["term/reward/x"] == 2
    assert max(row["ratio_deviation"] for row in rows) < 1e-5


FAR = 1.7e9
"""Seconds since 1970: float32 knows such numbers to 128."""


def far(x):
    """What is shown, in quarters far from 0."""
    return FAR + 0.25 * (x.double() if isinstance(x, torch.Tensor) else x.astype(np.float64))


class FarTensors(Tensors):
    def given(self, x):
        return far(x) if x.dim() == 2 else x


class FarRslRl(RslRl):
    def shown(self):
        return Groups({name: far(x) for name, x in super().shown().items()})

    def step(self, actions):
        *answer, extras = super().step(actions)
        return *answer, {**extras, "final_obs": Groups({name: far(x) for name, x in extras["final_obs"].items()})}


class FarFunctional(Functional):
    def shown(self, now, done, info):
        state = super().shown(now, np.float32(0), info)
        return state.replace(obs={name: far(x) for name, x in state.obs.items()}, done=done)


class FarFunctionals(Batched):
    def __init__(self):
        super().__init__(FarFunctional())


@pytest.mark.parametrize("normalised", [True, False])
@pytest.mark.parametrize("source", [FarTensors, FarRslRl, FarFunctionals])
def test_observations_far_from_zero_keep_the_digits_that_numpys_path_keeps(source, normalised, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", JAX)
    seen = {FarTensors: {}, FarFunctionals: {"actor": ("state",), "critic": ("state", "privileged_state")}}
    settings = {"observations": seen.get(source, GROUPS["observations"])}
    settings |= {"normalizers": {"observations": normalised}}
    there, rows, rollout = trained(source, **settings)
    assert isinstance(there.collector, TensorCollector)
    monkeypatch.setattr(trainings, "stays_on_device", lambda policy: False)
    here, others, other = trained(source, **settings)
    assert rollout.inputs.keys() == other.inputs.keys()
    for name, x in rollout.inputs.items():
        assert x.dtype == (torch.float64 if normalised else torch.float32)
        assert torch.equal(x, other.inputs[name])
        assert torch.equal(rollout.last_inputs[name], other.last_inputs[name])
    for final, expected in zip(rollout.finals, other.finals, strict=True):
        assert all(torch.equal(x, expected.inputs[name]) for name, x in final.inputs.items())
    if normalised:
        steps = (rollout.inputs["vector"][..., 0] - FAR) * 4
        assert set(steps.unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert torch.equal(weights(there), weights(here))
    assert [row["approx_kl"] for row in rows] == [row["approx_kl"] for row in others]


class TooLarge(FarTensors):
    def given(self, x):
        return x.double() * 1e39 if x.dim() == 2 else x


def test_what_float32_can_not_hold_is_refused_in_float64_too():
    settings = plan(observations={}, normalizers={"observations": True})
    with pytest.raises(UserError, match=r"observation \(vector\) of environment 0 is not finite"):  # noqa: SIM117
        with running(TooLarge, **settings) as training:
            training.iterate()


class Functionals(Batched):
    """JAX's, by the stand-in."""

    def __init__(self):
        super().__init__(Functional())


class Leaking(RslRl):
    """Reads a number in each step, as a user's logging may."""

    def step(self, actions):
        answer = super().step(actions)
        self.total = float(answer[1].sum())
        return answer


def what_leaves(source, monkeypatch):
    """Calls that read a tensor on the host, in one rollout."""
    left = []
    seen = {Tensors: {}, Functionals: {"actor": ("state",), "critic": ("state", "privileged_state")}}
    settings = plan(observations=seen.get(source, GROUPS["observations"]))
    with running(source, **settings) as training:
        assert isinstance(training.collector, TensorCollector)
        for name in LEAVING:
            real = getattr(torch.Tensor, name)

            def counted(self, *args, _real=real, _name=name, **kwargs):
                left.append(_name)
                return _real(self, *args, **kwargs)

            monkeypatch.setattr(torch.Tensor, name, counted)
        training.collect()
        monkeypatch.undo()
    return left


@pytest.mark.parametrize("source", [RslRl, Tensors, Functionals], ids=lambda source: source.__name__)
def test_nothing_leaves_the_device_but_once_in_a_rollout(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", JAX)
    assert what_leaves(source, monkeypatch) == ["cpu", "numpy"]


def test_what_does_leave_is_noticed(monkeypatch):
    assert what_leaves(Leaking, monkeypatch).count("__float__") == 12


class Broken(RslRl):
    def step(self, actions):
        seen, paid, over, extras = super().step(actions)
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 5:
            paid[2] = torch.nan
        return seen, paid, over, extras


def test_a_number_that_is_not_finite_is_found_after_the_rollout_with_its_place():
    with (
        pytest.raises(UserError, match="reward of environment 2 is not finite at step 4"),
        running(Broken, **plan()) as t,
    ):
        t.iterate()


def test_an_update_is_repeated_where_the_environments_of_tensors_were(tmp_path, monkeypatch):
    settings = {"network": {"hidden": (WIDE + 1,)}, "replay_mb": 64.0}
    with running(RslRl, **plan(**settings)) as training:
        training.iterate()
        training.ring.write(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # where wide layers alone would go
    assert [found.exact for found in replayed(tmp_path)] == [True]


class Elsewhere(Tensors):
    """Says another device than the policy's, on which it has to be given its actions."""

    def __init__(self):
        super().__init__()
        self.device = torch.device("meta")

    def step(self, actions):
        assert actions.device == self.device
        return super().step(torch.zeros(4, 2))


def test_actions_go_to_the_device_of_the_environments():
    with running(Elsewhere, **plan(observations={})) as training:
        assert isinstance(training.collector, TensorCollector)
        assert training.collect().steps == 48


class Breaks(RslRl):
    def step(self, actions):
        raise RuntimeError("the simulator is gone")


class Answers(RslRl):
    def step(self, actions):
        return super().step(actions)[:3]


@pytest.mark.parametrize(("make", "words"), [(Breaks, "RuntimeError: the simulator is gone"), (Answers, "ValueError")])
def test_what_an_environment_raises_is_said_with_its_place(make, words):
    with running(make, **plan()) as training:
        assert isinstance(training.collector, TensorCollector)
        with pytest.raises(UserError, match=rf"{make.__name__} failed at step 0 of a rollout: {words}"):
            training.iterate()


def test_hidden_ends_are_refused_here_too():
    hidden = lambda: RslRl(final=False)  # noqa: E731
    with pytest.raises(UserError, match=r"truncation = previous"), running(hidden, **plan()) as training:
        training.iterate()
    training, rows, _ = trained(hidden, truncation="previous")
    assert isinstance(training.collector, TensorCollector)
    assert rows[-1]["truncations_approximated"] > 4
