"""Acting and gradients are recorded once and replayed; on the CPU a tape of operators stands for the CUDA graph.

The tape has a graph's traps: no line of Python runs again, and tensors are read and written where they first lay. It
has never been tried on a GPU.
"""

from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from control_runs import configured, running, weights
from gymnasium import spaces
from shapes_of_others import RslRl, Tensors
from tape import recorder

import proximo
from proximo.control.config import SymmetrySettings
from proximo.control.models import graphs as module
from proximo.control.models.graphs import GraphedActor, graphs_of
from proximo.core.updates.graphs import Graphs, Replayed
from proximo.errors import UserError

GROUPS = {"observations": {"actor": ("policy",), "critic": ("critic", "policy")}}
KINDS = {
    "plain": {},
    "normalised": {"normalizers": {"observations": True, "rewards": "return"}},
    "its rate is steered": {"update": {"minibatch_size": 24, "adaptive_kl": 0.01}},
    "a clip that shrinks": {"update": {"minibatch_size": 24, "clip": "0.3 -> 0.1"}, "steps": 500},
    "squashed": {"source": Tensors, "observations": {}, "network": {"actions": "squashed"}},
    "in parts": {"update": {"minibatch_size": 24, "micro_batches": 3}},
}


def trained(source=RslRl, **settings):
    plan = {"count": 4, "length": 12, "closed_form": False, "update": {"minibatch_size": 24}, **GROUPS, **settings}
    with running(source, **plan) as training:
        rows = [training.iterate() for _ in range(4)]
        return training, rows, training.noise.get_state()


@pytest.fixture
def taped(monkeypatch):
    tapes = []
    monkeypatch.setattr(module, "graphs_of", lambda *_, **__: Graphs(record=recorder(tapes)))
    monkeypatch.setattr("proximo.control.training.training.graphs_of", module.graphs_of)
    return tapes


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_replayed_is_what_is_computed_anew(kind, taped, monkeypatch):
    there, rows, noise = trained(**KINDS[kind])
    assert isinstance(there.collector.actor, GraphedActor)
    objectives = 4 if kind == "a clip that shrinks" else 1
    assert len(taped) == 1 + objectives  # acting, and a gradient for each set of the objective's numbers
    assert sum(tape.replays for tape in taped) >= 4 * 12 - 1 + 4 * 8 - objectives
    monkeypatch.undo()
    here, others, expected = trained(**KINDS[kind])
    assert not isinstance(here.collector.actor, GraphedActor)
    assert torch.equal(weights(there), weights(here))
    assert torch.equal(noise, expected)
    for row, other in zip(rows, others, strict=True):
        names = {name for name in row if not name.startswith("seconds/")}
        assert {name: row[name] for name in names} == {name: other[name] for name in names}


def test_what_is_told_is_the_callers_to_keep_and_other_shapes_are_computed_anew():
    tapes = []
    doubled = Replayed(lambda told: {"y": 2 * told["x"]}, recorder(tapes))
    seen = [doubled({"x": torch.tensor([float(i)])})["y"] for i in range(4)]
    assert torch.cat(seen).tolist() == [0.0, 2.0, 4.0, 6.0]
    assert (len(tapes), tapes[0].replays) == (1, 3)
    assert doubled({"x": torch.ones(2)})["y"].tolist() == [2.0, 2.0]
    assert tapes[0].replays == 3


def test_a_branch_by_a_number_is_noticed_and_not_recorded():
    tapes = []
    absolute = Replayed(lambda told: {"y": told["x"] if told["x"] > 0 else -told["x"]}, recorder(tapes))
    assert [float(absolute({"x": torch.tensor(x)})["y"]) for x in (1.0, 2.0, -3.0)] == [1.0, 2.0, 3.0]
    assert "not permitted" in absolute.failed
    assert tapes == []


class Drifts(gymnasium.Env):
    """Seen is a number that lies far from 0, until it is scattered so widely that it no longer does."""

    observation_space, action_space = spaces.Box(-np.inf, np.inf, (2,), np.float64), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        self.now, self.chance = 0, np.random.default_rng(seed)
        return self.seen(), {}

    def seen(self):
        return 1e7 + self.chance.normal(size=2) * (1.0 if self.now < 24 else 1e7)

    def step(self, action):
        self.now += 1
        return self.seen(), float(action), False, False, {}


def test_a_branch_by_how_far_observations_lie_from_0_is_in_no_recording(taped, monkeypatch):
    settings = {"normalizers": {"observations": True}, "update": {"minibatch_size": 12}, "network": {"shared": True}}

    def learnt():
        with running(Drifts, count=4, length=12, closed_form=False, **settings) as training:
            rows = [training.iterate() for _ in range(3)]
            assert (training.collector.exact, training.policy.exact_observations) == (True, False)
            return weights(training), [row["ratio_deviation"] for row in rows]

    there = learnt()
    assert taped == []
    monkeypatch.undo()
    here = learnt()
    assert torch.equal(there[0], here[0])
    assert there[1] == here[1]


def unrecorded(function, generator=None):
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


def test_what_can_not_be_recorded_is_said_once_and_ends_a_run_that_asked_for_graphs(monkeypatch, tmp_path, capsys):
    plan = {"steps": 600, "environments": 4, "rollout_length": 16, "episodes": 1, "update": {"minibatch_size": 32}}
    plan |= {"network": {"hidden": [8], "activation": "silu"}, "progress": "plain"}
    graphs = Graphs(record=unrecorded)
    monkeypatch.setattr("proximo.control.training.training.graphs_of", lambda *_, **__: graphs)
    proximo.train("CartPole-v1", run=tmp_path / "auto", **plan)
    assert capsys.readouterr().err.count("CUDA graphs: not of all, operation not permitted") == 1
    graphs = Graphs(record=unrecorded, asked=True)
    with pytest.raises(UserError, match="cuda_graphs = on, but operation not permitted when stream is capturing: set"):
        proximo.train("CartPole-v1", run=tmp_path / "on", **plan)
    assert not (tmp_path / "on").exists()


def told_against(settings, policy, **facts):
    training_facts = {"alone": True, "others": False, **facts}
    return graphs_of(settings, policy.policy, policy.algorithm, **training_facts).off


def test_what_forbids_graphs_is_said_and_refused_where_they_are_asked_for(monkeypatch):
    config = configured(**GROUPS)
    with running(RslRl, count=4, length=12, **GROUPS) as training:
        assert training.graphs.off == told_against(config, training) == "the networks are on the CPU"
        with pytest.raises(UserError, match="cuda_graphs = on, but the networks are on the CPU"):
            told_against(replace(config, cuda_graphs="on"), training)
        assert told_against(replace(config, cuda_graphs="off"), training) == "as asked"
        on_a_gpu = type("Parameter", (), {"device": torch.device("cuda")})()
        monkeypatch.setattr(type(training.policy), "parameters", lambda self: iter([on_a_gpu]))
        assert told_against(config, training) == ""
        asked = graphs_of(
            replace(config, cuda_graphs="on"), training.policy, training.algorithm, alone=True, others=False
        )
        assert (asked.off, asked.asked) == ("", True)
        assert "ranks" in told_against(config, training, alone=False)
        assert "opponents" in told_against(config, training, others=True)
        own = configured(network={"custom": "a:b"})
        assert "of your own" in told_against(own, training)
        assert "symmetry" in told_against(
            replace(config, symmetry=SymmetrySettings(function="a:b", mirror_loss=1.0)), training
        )
