"""Whole trainings of robots on several ranks: the same numbers everywhere, and exact resume."""

import re
import shutil

import numpy as np
import pytest
from ranks import on_ranks
from run_ranks import KINDS, goes_on, half
from same_runs import same_runs

from proximo.control.config import TrainConfig
from proximo.control.result import Run
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics
from proximo.scale.mesh import Mesh


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def told(home):
    return on_ranks(2, "run_ranks:runs", home)


@pytest.mark.parametrize("kind", KINDS)
def test_all_ranks_see_the_same_numbers_and_have_the_same_weights(told, home, kind):
    first, other = (each[kind] for each in told)
    assert len(first["rows"]) >= 2
    assert first["rows"] == other["rows"]
    assert first["weights"] == other["weights"]
    assert first["results"] == other["results"]
    written = [row["step"] for row in read_metrics(home / kind / "metrics.jsonl")]
    assert written == [row["step"] for row in first["rows"]]


def test_parts_of_the_reward_are_those_of_all_ranks(told):
    for row in told[0]["returns"]["rows"]:
        assert row["term/rank"] == pytest.approx(2 / 5)
        assert row["term/own"] == 3.0


def test_every_rank_steps_its_own_share_and_all_steps_are_counted(told):
    first, other = (each["closed form"] for each in told)
    assert [len(x["first"][0]) for x in (first, other)] == [3 * 32, 2 * 32]
    assert first["rows"][0]["step"] == 2 * 5 * 32  # one rollout for the normalisers, and one that is learnt from
    assert first["results"]["steps"] == first["rows"][-1]["step"]


def test_ranks_draw_different_actions(told):
    first, other = (each["recurrent"]["first"] for each in told)
    assert first[1] != other[1]
    assert first[0] != other[0]


def test_a_stop_of_one_rank_stops_all_and_the_run_goes_on_to_the_same_bits(told, home):
    for each in told:
        assert each["stopped"] == ("trainer.stop()", 160 * 4)
        assert each["resumed"]["weights"] == told[0]["closed form"]["weights"]
    whole, other = (
        Run(home / name, TrainConfig(), told[0][key]["results"])
        for name, key in (("closed form", "closed form"), ("stopped", "resumed"))
    )
    same_runs(whole, other)


def test_a_signal_to_one_rank_during_an_evaluation_stops_all_there_and_changes_nothing(home):
    told = on_ranks(2, "run_ranks:asked_while_evaluated", home)
    for rank in told:
        for victim in (0, 1):
            stopped, resumed = rank[victim]
            assert stopped["at"] == ("SIGTERM", 160 * 2)
            assert resumed["at"] == (None, 160 * 4)
            for name in ("weights", "results"):
                assert resumed[name] == rank["never"][name]


def test_another_number_of_ranks_goes_on_from_the_same_policy(home):
    assert on_ranks(2, "run_ranks:half", home / "two") == ["stop-at"] * 2
    shutil.copytree(home / "two", home / "two-again")
    tensors, _ = load_checkpoint(sorted((home / "two" / "checkpoints").glob("step-*"))[-1])
    assert any(name.startswith("ranks/1/random/generators") for name in tensors)
    told = [goes_on(Mesh(), home / "two")]  # 2 -> 1
    told += on_ranks(4, "run_ranks:goes_on", home / "two-again")  # 2 -> 4
    for each in told:
        assert [row["step"] for row in each["rows"]] == [160 * n for n in (4, 5, 6)]
        assert each["exact"] is False
    assert len({each["seed"] for each in told[1:]}) == 4
    assert all(each["weights"] == told[1]["weights"] for each in told[1:])
    assert "not exact at 480 steps: 4 ranks go on where another number" in (home / "two-again/config.toml").read_text()


def test_four_ranks_go_on_where_one_was(home):
    assert half(Mesh(), home / "one") == "stop-at"
    told = on_ranks(4, "run_ranks:goes_on", home / "one")
    assert all(each["weights"] == told[0]["weights"] for each in told)
    assert [row["step"] for row in told[3]["rows"]] == [160 * n for n in (4, 5, 6)]


@pytest.fixture(scope="module")
def troubles(home):
    return on_ranks(2, "run_ranks:troubles", home)


def test_what_goes_wrong_on_one_rank_is_said_by_all_in_the_same_words(troubles, home):
    first, other = troubles
    assert first.keys() == other.keys()
    assert "the simulator broke" in first["raises"]
    assert "not-finite: advantages" in first["advantages"]
    for name in ("raises", "advantages"):
        assert "(on rank 1 of 2)" in first[name]
    assert "not-finite: the loss or gradient" in first["gradient"]  # of all ranks: it is one sum
    for name in ("raises", "advantages", "gradient", "refused"):
        assert first[name] == other[name]
    for name in ("advantages", "gradient"):  # the verdict is in the record, and what was right before is saved
        assert "not-finite" in read_metrics(home / name / "metrics.jsonl")[-1]["error"]
        assert list((home / name / "checkpoints").glob("step-*"))
    assert "2 ranks can not share environments = 1" in first["refused"]
    for name in ("settings", "loss"):
        assert first[name] == other[name]
    assert first["settings"].startswith("seed = 8 here, and 7 on rank 0: ")
    for name in ("within", "at the end"):
        assert "a training in a callback: 2 ranks train together" in first[name]
        assert first[name] == other[name]


def test_an_error_in_a_loss_of_ones_own_names_its_place_and_nothing_that_was_learnt_is_lost(troubles, home):
    for rank in troubles:
        assert re.search(r"KeyError: 'no such part' at \S*run_ranks\.py:\d+ \(on rank 1 of 2\)", rank["loss"])
    (saved,) = (home / "loss" / "checkpoints").glob("step-*")
    assert int(saved.name.partition("-")[2]) == 160 * 2


def test_one_in_an_estimate_is_told_to_the_others_who_wait_for_a_sum(troubles):
    first, other = troubles
    assert other["estimate"] == "'no such part'"
    assert first["estimate"].startswith("rank 1 of 2 failed where all compute together: KeyError: 'no such part' at ")


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_what_wrappers_have_learnt_goes_on_with_another_number_of_ranks(tmp_path, before, after):
    seen = []
    for ranks, steps in ((before, 1024), (after, 1280)):
        seen.append(on_ranks(ranks, "run_ranks:learns", tmp_path / "run", steps)[0])
    if after == 1:  # rank 0 had two of four environments, and learns in all four from here on
        assert seen[1] - seen[0] == pytest.approx(256, abs=60)
    else:
        assert seen[1] - seen[0] == pytest.approx(128, abs=60)


def test_callbacks_are_called_by_rank_0_and_end_all(troubles):
    first, other = troubles
    assert first["mine"] == other["mine"] == [3.0] * len(first["mine"])
    assert first["ended"][:2] == other["ended"][:2]
    assert first["ended"][0] == 480
    assert first["ended"][2] == [0] * len(first["mine"])
    assert other["ended"][2] == []


def test_ranks_wait_for_a_callback_without_a_limit_and_none_saves_alone(home):
    (names, said, rows), (_, _, others) = on_ranks(2, "run_ranks:waits_for_callbacks", home / "waits")
    assert len(set(names)) == len(names) >= 3  # a start, an iteration, a checkpoint
    assert len(said) == len(names)
    assert all("2 ranks save together, and callbacks are called by rank 0 alone" in each for each in said)
    assert others == rows  # what tells the time, too
    assert rows[0]["seconds/update"] > 0


def test_a_run_starts_on_all_ranks_from_one_whose_folder_only_rank_0_sees(home):
    first, other = on_ranks(2, "run_ranks:starts_from", home)
    for rank in (first, other):
        earlier, later = rank["weights"]
        np.testing.assert_allclose(later, earlier, rtol=0, atol=1e-9)
        assert rank["counts"][1] > rank["counts"][0] > 160
    assert first == other


APART = {"LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
"""Ranks that take each other for another machine's: they talk by gloo alone."""


@pytest.mark.parametrize("environment", [{}, APART], ids=["one machine", "several"])
def test_a_loop_that_one_rank_leaves_ends_on_all_and_is_saved(tmp_path, environment):
    first, other = on_ranks(2, "run_ranks:loops", tmp_path, environment=environment)
    assert first["neighbours"] == (environment == {})
    assert other["raised"] == "mine"
    assert "left" not in other
    for name in ("raised", "left"):
        assert first[name].startswith(f"rank 1 of 2 left the loop over its trainer at {first[f'{name} at']} steps")
        assert (tmp_path / name / "checkpoints" / f"step-{first[f'{name} at']:012d}").is_dir()
    assert "all left" not in first
    assert first["goes on at"] == other["goes on at"] > first["all left at"]


@pytest.mark.parametrize("environment", [{}, APART], ids=["one machine", "several"])
def test_a_rank_that_fails_where_all_compute_together_leaves_its_words(tmp_path, environment):
    first, other = on_ranks(2, "run_ranks:fails_alone", tmp_path, environment=environment)
    assert other == "no room on rank 1"
    assert "rank 1 of 2 failed where all compute together: no room on rank 1" in first
