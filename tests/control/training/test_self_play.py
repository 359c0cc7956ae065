"""A policy plays against itself and its own past: exact in resume, with values of the right sign, and it learns."""

import numpy as np
import pytest
import torch
from control_runs import configured, running, value
from mirrored_tasks import TwoSided
from same_runs import PLAN, same_runs
from turn_games import MOST, Nim, Signals

import proximo
from proximo.control.environments.base import VectorEnvironment
from proximo.control.environments.games import OpponentError
from proximo.control.evaluation import matches
from proximo.control.evaluation.selection import Selection
from proximo.control.loading import LoadedPolicy
from proximo.control.training.self_play import NOW
from proximo.errors import UserError

SETTINGS = {
    "count": 16,
    "length": 32,
    "self_play": {"past": 0.5, "kept": 4, "every": 1024},
    "update": {"minibatch_size": 128, "entropy_coefficient": 0.02},
}


@pytest.fixture(autouse=True)
def few_games(monkeypatch):
    monkeypatch.setattr(matches, "GAMES", 32)


def positions():
    """Every number of stones, as whoever is to move sees it."""
    stones = np.arange(1, MOST + 1)
    seen = np.eye(MOST + 1, dtype=np.float32)[stones]
    return stones, {"observation": seen, "action_mask": (np.arange(1, 4) <= stones[:, None]).astype(np.int8)}


@pytest.fixture(scope="module")
def master():
    with running(Nim, **SETTINGS) as training:
        for _ in range(40):
            row = training.iterate()
        yield training, row


def test_it_finds_the_winning_move_of_every_position(master):
    stones, seen = positions()
    moves = 1 + LoadedPolicy(master[0].policy).act(seen)
    won = stones % 4 > 0
    assert np.array_equal(moves[won], stones[won] % 4)


def test_a_lost_position_has_a_negative_value_and_a_won_one_a_positive_one(master):
    """Whoever is to move with a multiple of four has lost: a sign that belonged to the other seat would show here."""
    stones, seen = positions()
    values = value(master[0], seen)
    won = stones % 4 > 0
    assert (values[won] > 0).all()
    assert (values[~won] < 0).all()


def test_games_against_itself_say_how_they_went(master):
    training, row = master
    assert row["log/won"] + row["log/drawn"] + row["log/lost"] == pytest.approx(1)
    assert row["log/drawn"] == 0
    assert row["ratio_deviation"] < 1e-5
    assert training.best.weights == {}, "a return against oneself chooses no policy"


def test_past_versions_are_what_the_policy_was_and_some_are_kept():
    with running(Nim, **SETTINGS) as training:
        was = {0: {k: x.clone() for k, x in training.policy.state_dict().items()}}
        for _ in range(20):
            training.iterate()
            was[training.progress.steps] = {k: x.clone() for k, x in training.policy.state_dict().items()}
            versions = training.self_play.versions
            assert len(versions) <= 4
            assert versions[0] == 0, "who has learnt nothing stays"
            for version in versions:
                kept = training.self_play._past[version].state_dict()
                assert all(torch.equal(x, was[version][name]) for name, x in kept.items())
        assert len(was) // 2 > 4, "none had to go"
        drawn = [training.self_play.draw(*np.random.default_rng(i).random(2)) for i in range(1000)]
    assert set(drawn) == {NOW, *versions}
    assert 430 < drawn.count(NOW) < 570


PLAYED = {**PLAN, "checkpoint_every": 64 * 3, "self_play": {"past": 0.6, "kept": 2, "every": 64}}


@pytest.mark.parametrize("closed_form", [True, False], ids=["closed form", "autograd"])
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not_been(closed_form, tmp_path):
    activation = "tanh" if closed_form else "silu"  # of which there is no closed form
    plan = {**PLAYED, "steps": 64 * 8, "network": {"hidden": [16], "activation": activation}}
    whole = proximo.train(Nim, run=str(tmp_path / "whole"), **plan)
    for stop_at in (0, 64 * 2, 64 * 5, 64 * 6 + 1):
        assert proximo.train(Nim, run=str(tmp_path / "stopped"), stop_at=stop_at, **plan).stopped == "stop-at"
    same_runs(whole, proximo.train(Nim, run=str(tmp_path / "stopped"), **plan))


def test_an_iteration_that_is_given_up_leaves_no_moves_behind():
    with running(Nim, **SETTINGS) as training, running(Nim, **SETTINGS) as other:
        for each in (training, other):
            each.iterate()
        training.before.remember()
        training.collector.collect()
        assert training.rewind()
        assert training.bring_back() == []
        assert training.iterate()["log/won"] == other.iterate()["log/won"]


def test_a_finished_run_is_evaluated_against_a_random_player_or_another_run(tmp_path):
    runs = [proximo.train(Nim, run=tmp_path / str(seed), **{**PLAYED, "seed": seed, "steps": 256}) for seed in (0, 1)]
    told = proximo.evaluate(runs[0], 10)
    assert told["against"] == "a random player"
    assert sum(told["final_deterministic_games"].values()) == pytest.approx(1)
    assert runs[0].results["best_chosen_by"] == "matches against past versions"
    both = [proximo.evaluate(one, 200, against=other)["final_sampled_games"] for one, other in (runs, runs[::-1])]
    # What one wins the other loses, but for chance: 200 games each, four standard deviations of a difference.
    assert abs(both[0]["won"] - both[1]["lost"]) < 4 * 0.5 * (2 / 200) ** 0.5
    assert set(LoadedPolicy(proximo.load(runs[0]).policy).act(positions()[1])) <= {0, 1, 2}


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"network": {"memory": "gru"}}, r"network\.memory = gru"),
        ({"history": {"observation": 2}}, "history"),
        ({"frame_stack": 2}, "frame_stack"),
    ],
    ids=["memory", "history", "stack"],
)
def test_what_can_not_be_its_own_opponent_is_refused(settings, named):
    with pytest.raises(UserError, match=f"^{named} is not offered in .*Nim"), running(Nim, **settings):
        pass


def test_settings_of_opponents_are_refused_where_nobody_else_moves():
    with (
        pytest.raises(UserError, match=r"self_play\.past and self_play\.every can do nothing in .*TwoSided"),
        running(TwoSided, self_play={"past": 0.2, "every": 7}),
    ):
        pass
    with running(TwoSided, self_play={"past": 0.5}) as training:
        assert training.self_play is None


def test_a_student_in_a_game_is_refused(tmp_path):
    call = {"steps": 64, "environments": 2, "rollout_length": 16, "episodes": 1, "progress": "quiet"}
    call["update"] = {"minibatch_size": 32}
    teacher = proximo.train(Nim, run=tmp_path / "teacher", **call)
    with pytest.raises(UserError, match=r"distill is not offered in .*Nim"):
        proximo.distill(teacher, Nim, run=tmp_path / "student", **call)
    assert not (tmp_path / "student").exists()


def test_an_opponent_that_fails_is_not_said_to_be_the_game(monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("no move")

    with running(Nim, count=2, length=4, update={"minibatch_size": 8}) as training:
        monkeypatch.setattr(training.self_play, "act", fail)
        with pytest.raises(OpponentError, match=r"an opponent in .*Nim failed to move: no move"):
            training.iterate()


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match=r"self_play.past = 1.5 must lie in \[0, 1\]"):
        configured(self_play={"past": 1.5})
    assert VectorEnvironment.game.fget(None) is None


def test_two_who_share_a_policy_agree_on_what_a_word_means():
    """Alone, each can not be right more than half of the time."""
    with running(Signals, count=16, length=32, update={"minibatch_size": 128}, gamma=0.9) as training:
        for _ in range(30):
            training.iterate()
        assert training.recent.mean_return > 0.95


def broken(training):
    """The policy as if it had unlearnt everything."""
    with torch.no_grad():
        training.optimizer.flat.zero_()
    if training.closed_form:
        training.closed_form.freeze()


def test_the_best_version_of_a_run_is_the_one_that_wins_most_against_all_of_them():
    with running(Nim, **{**SETTINGS, "network": {"hidden": (16,)}}) as training:
        for _ in range(16):
            training.iterate()
        past = {steps: policy.state_dict() for steps, policy in training.self_play.past.items()}
        broken(training)
        selection = Selection(training.config, Nim, None)
        selection.choose_version(training)
        selection.close()
    first = "network.actor.0.weight"
    chosen = [steps for steps, was in past.items() if torch.equal(was[first], training.best.weights[first])]
    assert chosen, "no past version was chosen in the place of one that knows nothing"
    assert chosen[0] > 0
    assert selection.criterion == "matches against past versions"
    assert training.best.mean_return > 0


def test_an_evaluation_on_the_way_keeps_the_best_so_far_where_the_policy_has_become_worse():
    with running(Nim, **SETTINGS, evaluate_every=512) as training:
        for _ in range(12):
            training.iterate()
        selection = Selection(training.config, Nim, None)
        selection.save = lambda training: None
        selection.look(training)
        kept, score = dict(training.best.weights), training.progress.evaluation_return
        broken(training)
        selection.look(training)
        selection.close()
    assert all(torch.equal(training.best.weights[name], x) for name, x in kept.items())
    assert training.progress.evaluation_return < score
    assert training.best.mean_return == score, "the same pool, games and policy"
