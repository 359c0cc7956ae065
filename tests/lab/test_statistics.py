"""Verdicts are those of the numbers, and intervals cover what they should."""

import numpy as np
import pytest

from proximo.lab.statistics import judge


@pytest.mark.parametrize(
    ("effects", "least", "word"),
    [
        ([0.5, 0.6, 0.4, 0.55, 0.45], 0.1, "supported"),
        ([0.0, 0.0, 0.0], 0.0, "not supported"),
        ([-1.0, -0.9, -1.1], 0.1, "not supported"),
        ([0.05, 0.06, 0.04], 0.1, "not supported"),
        ([-1.0, 1.0, 0.5, -0.4], 0.1, "undecided"),
    ],
)
def test_a_planted_effect_gets_its_verdict(effects, least, word):
    verdict = judge(effects, least)
    assert verdict.word == word
    assert verdict.low <= verdict.effect <= verdict.high
    assert (verdict.seeds, verdict.effect) == (len(effects), pytest.approx(np.mean(effects)))
    assert judge(effects, least) == verdict, "the same numbers, the same verdict"


def test_the_interval_covers_the_mean_about_as_often_as_it_says():
    """Of the percentile bootstrap with 12 values, 90 to 95 % (it is known to be somewhat narrow)."""
    draw = np.random.default_rng(1)
    verdicts = [judge(draw.normal(3.0, 1.0, 12).tolist(), 0.0) for _ in range(300)]
    covered = np.mean([v.low <= 3.0 <= v.high for v in verdicts])
    assert 0.87 <= covered <= 0.98


@pytest.mark.parametrize("effects", [[], [1.0], [1.0, float("nan")]])
def test_too_few_numbers_give_no_verdict(effects):
    with pytest.raises(ValueError, match="two finite effects"):
        judge(effects, 0.0)
