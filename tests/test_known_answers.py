"""The fast part of `benchmarks/doctor_known_answers.py`: runs really trained, each with one planted mistake."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from doctor_known_answers import CASES, answer

# Seeds other than those that the rules were written on (0).
SEED = 11

ONE_OF_A_KIND = ("moving-observations", "no-reward", "indifferent-reward")
"""Planted in the code, in an environment and in a reward; in a setting: test_fruitless.py. Beside them one healthy run.
The others are slow."""


def cases():
    for case in CASES:
        if case.fast:
            quick = case.name in ONE_OF_A_KIND or case.name == "language-full"
            yield pytest.param(case, id=case.name, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize("case", cases())
def test_the_doctor_names_the_planted_cause_first_and_leaves_healthy_runs_alone(case, tmp_path):
    row = answer(case, tmp_path, SEED)
    assert row["right"], row["findings"]
