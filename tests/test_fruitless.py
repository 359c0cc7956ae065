"""The fast part of `benchmarks/doctor_fruitless.py`: runs really trained that learn nothing, and games of luck."""

import sys
from pathlib import Path

import pytest
from clocks import steady

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from doctor_known_answers import answer
from fruitless_cases import ENVIRONMENTS_TUNED_ON, NOTHING_TO_GAIN, TUNED_ON

SEED = 11  # the rules were written on 0

NAMED = [case for case in TUNED_ON if case.fast]


def named():
    for case in NAMED:
        yield pytest.param(case, id=case.name, marks=() if case.name == "clip" else pytest.mark.slow)


@pytest.mark.parametrize("case", named())
def test_a_run_that_learns_nothing_is_named_with_the_planted_reason_first(case, tmp_path):
    row = answer(case, tmp_path, SEED)
    assert row["right"], row["findings"]


def test_where_nothing_is_to_be_gained_nothing_red_is_said(tmp_path):
    row = answer(NOTHING_TO_GAIN[0], tmp_path, SEED)
    assert row["right"], row["findings"]
    assert row["findings"][0][1] == "P046 learnt-nothing"


@pytest.mark.parametrize("case", ENVIRONMENTS_TUNED_ON, ids=lambda case: case.name)
def test_an_environment_that_can_not_be_learnt_is_named_before_training(case, tmp_path, monkeypatch):
    steady(monkeypatch)
    row = answer(case, tmp_path, SEED)
    assert row["right"], row["findings"]
