"""PPO on language models on several ranks: prompts are shared out, groups stay whole, the update is one process's."""

import shutil

import pytest
from language_ranks import CASES, ending_soon, goes_on
from ranks import on_ranks
from tiny import llama, tokenizer

from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics
from proximo.scale.mesh import Mesh

HALVES, UNEVEN = [slice(0, 4), slice(4, 8)], [slice(0, 2), slice(2, 8)]
QUARTERS = [slice(2 * i, 2 * i + 2) for i in range(4)]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("language")
    ending_soon(llama()).save_pretrained(home / "model")
    tokenizer().save_pretrained(home / "model")
    return home


WITHIN_RANKS = {"return_std", "explained_variance"}
"""Metrics that are means over ranks of what each sees of its own, beside those of the texts."""


@pytest.fixture(scope="module")
def updates():
    return on_ranks(2, "language_ranks:updates", [HALVES, UNEVEN])


@pytest.mark.parametrize("shares", [0, 1])
@pytest.mark.parametrize("case", CASES)
def test_an_update_on_the_same_responses_is_that_of_one_process(updates, case, shares):
    first, other = (each[shares][case] for each in updates)
    alone, together = first["weights"]
    assert max(abs(x - y) for x, y in zip(alone, first["before"], strict=True)) > 1e-4
    assert together == pytest.approx(alone, abs=1e-7)
    assert other["weights"][1] == together
    one, all_ = first["metrics"]
    assert other["metrics"][1] == all_
    assert one.keys() == all_.keys()
    assert first["kl"][1] == pytest.approx(first["kl"][0])
    texts = {name for name in one if name.startswith(("distinct", "duplicates", "repeat", "unique"))}
    for name in one.keys() - WITHIN_RANKS - texts:
        assert (one[name] is None) == (all_[name] is None), name
        if one[name] is not None:
            assert all_[name] == pytest.approx(one[name], rel=0.05 if name == "kl_se" else 1e-4, abs=1e-5), name


def test_four_ranks_make_the_update_of_one_process():
    for each in on_ranks(4, "language_ranks:updates", [QUARTERS]):
        for case in CASES:
            alone, together = each[0][case]["weights"]
            assert together == pytest.approx(alone, abs=1e-7), case


def test_the_ranks_had_responses_of_different_lengths(updates):
    first, other = updates
    assert any(first[0][case]["width"] != other[0][case]["width"] for case in CASES)


def test_ranks_that_compute_together_make_equally_many_passes_over_unlike_responses(updates):
    for shares in zip(*updates, strict=True):
        seen = [each["computed together"] for each in shares]
        assert seen[0]["passes"] == seen[1]["passes"]
    assert any(
        a["computed together"]["real passes"] != b["computed together"]["real passes"]
        for a, b in zip(*updates, strict=True)
    )


@pytest.fixture(scope="module")
def told(home):
    return on_ranks(2, "language_ranks:runs", home)


def test_all_ranks_see_the_same_numbers_and_draw_different_responses(told, home):
    first, other = told
    assert first["rows"] == other["rows"]
    assert [row["step"] for row in first["rows"]] == [8, 16, 24, 32]
    assert first["weights"] == other["weights"]
    assert first["results"] == other["results"]
    assert first["drawn"] != other["drawn"]
    assert len(read_metrics(home / "whole" / "metrics.jsonl")) == 4
    assert (home / "whole" / "policy" / "config.json").exists()


def test_a_stop_of_one_rank_stops_all_and_the_run_goes_on_to_the_same_bits(told):
    for each in told:
        assert each["stopped"] == ("trainer.stop()", 16)
        assert each["resumed"] == told[0]["weights"]


def test_a_loss_that_is_no_number_on_one_rank_has_one_verdict(told, home):
    assert "not-finite: the loss or gradient" in told[0]["no number"]
    assert told[0]["no number"] == told[1]["no number"]
    assert "not-finite" in read_metrics(home / "no number" / "metrics.jsonl")[-1]["error"]


def test_what_ranks_can_not_share_is_refused_by_all(told):
    assert "2 ranks share the 2 prompts" in told[0]["refused"]
    assert told[0]["refused"] == told[1]["refused"]


def test_settings_that_differ_by_rank_are_refused_by_all(told, home):
    assert [x["settings"] for x in told] == [
        "seed = 8 here, and 7 on rank 0: give all ranks the same settings (on rank 1 of 2)"
    ] * 2
    assert not (home / "settings").exists()


def test_another_number_of_ranks_goes_on(told, home):
    shutil.copytree(home / "half", home / "half-again")
    tensors, _ = load_checkpoint(sorted((home / "half" / "checkpoints").glob("step-*"))[-1])
    assert "ranks/1/random/generators/noise" in tensors
    assert goes_on(Mesh(), home, "half")["steps"] == [24, 32]
    seen = on_ranks(4, "language_ranks:goes_on", home, "half-again")
    assert all(each == seen[0] for each in seen)
    assert seen[0]["steps"] == [24, 32]
