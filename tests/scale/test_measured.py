"""Metrics of ranks become those of all their samples together."""

import math
import statistics

import pytest

from proximo.scale.measured import Rules, merged
from proximo.scale.mesh import ALONE, Mesh

RULES = Rules(
    sums={"ends"}, maxima={"largest"}, squares={"rms"}, deviations={"std": "mean"}, errors={"se"}, histograms={"bins"}
)
SAMPLES = ([3.0, 1.0, -4.0], [1.5], [9.0, 2.0, 6.0, 5.0])


def seen(samples):
    """What a rank measures of its samples."""
    return {
        "mean": statistics.fmean(samples),
        "std": statistics.pstdev(samples),
        "rms": math.sqrt(statistics.fmean(x * x for x in samples)),
        "largest": max(samples),
        "ends": len(samples),
        "bins": f"{sum(x > 2 for x in samples)} {sum(x <= 2 for x in samples)}",
        "se": math.sqrt(2 / len(samples)),  # of a mean of samples of variance 2
    }


class Several(Mesh):
    """The mesh of one of several ranks, which has heard what all of them say."""

    def __init__(self, heard):
        super().__init__()
        self.size, self.heard = 2, heard

    def gather_json(self, value):
        return self.heard


def together(rows, weights, squares=None):
    squares = squares or weights
    heard = [[w, s, row] for w, s, row in zip(weights, squares, rows, strict=True)]
    return merged(rows[0], weights[0], Several(heard), RULES, of_squares=squares[0])


def test_they_are_those_of_all_samples():
    told = together([seen(x) for x in SAMPLES], [len(x) for x in SAMPLES])
    everything = seen([x for samples in SAMPLES for x in samples])
    assert told["bins"] == everything["bins"]
    assert isinstance(told["ends"], int)
    assert {k: x for k, x in told.items() if k != "bins"} == pytest.approx(
        {k: x for k, x in everything.items() if k != "bins"}
    )


def test_root_mean_squares_may_be_over_other_samples_than_means():
    told = together([{"rms": 2.0, "mean": 1.0}, {"rms": 4.0, "mean": 5.0}], [1, 3], squares=[3, 1])
    assert told == {"rms": pytest.approx(math.sqrt((3 * 4 + 16) / 4)), "mean": pytest.approx(4.0)}


def test_who_has_nothing_to_say_is_left_out_and_what_nobody_knows_stays_unknown():
    rows = [{"mean": None, "other": None}, {"mean": 3.0, "other": None}, {"mean": 6.0, "only": 2.0}]
    assert together(rows, [7, 1, 2]) == {"mean": 5.0, "other": None, "only": 2.0}


def test_no_number_is_hidden_by_a_number():
    for values in ((1.0, math.nan), (math.nan, 1.0)):
        told = together([{"largest": x, "mean": x, "ends": x} for x in values], [1, 1])
        assert all(math.isnan(x) for x in told.values())


def test_alone_they_stay_what_they_are():
    assert merged(seen([1.0, 2.0]), 2, ALONE, RULES) == seen([1.0, 2.0])
