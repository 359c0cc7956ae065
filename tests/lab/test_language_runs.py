"""The language of five words is what it says, and what is measured in it is what is known of it."""

import math

import torch

from proximo.lab.language.frontier import COUNTS, best_of
from proximo.lab.language.gradients import relative_variance
from proximo.lab.language.runs import ran, words
from proximo.lab.language.words import FLAW, PROMPT, Words


def test_all_responses_are_listed_and_the_taste_is_standardised():
    made = Words(3)
    p = made.distribution(made.model())
    assert abs(float(p.sum()) - 1) < 1e-5
    assert abs(float((p * made.taste).sum())) < 1e-6
    assert abs(float((p * made.taste**2).sum()) - 1) < 1e-6
    assert made.known(made.model()) == (0.0, float((p * made.judge).sum()))
    assert math.isclose(made.known(made.model())[1], -0.5, abs_tol=1e-6), "E[z - z^2 / 2] = -1/2"


def test_what_is_known_is_what_a_run_measures(tmp_path):
    """The judge's mean and √KL of 512 answers, beside the exact ones of the policy that a run leaves."""
    made, task = Words(1), words(1)
    seen = ran(
        task, tmp_path / "run", seed=1, responses=256, kl={"coefficient": 0.02}, judge_prompts=512, judge_every=1
    )
    model = made.model().from_pretrained(tmp_path / "run" / "policy")
    way, judged = made.known(model)
    last = seen.rows[-1]
    assert abs(last["judge"] - judged) < 4 * last["judge_se"]
    assert abs(last["judge_distance"] - way) < 0.15 * way + 0.05
    assert last["judge_distance"] > 0.2, "it has moved"


def test_a_flaw_pays_where_it_stands(tmp_path):
    task = words(0)
    plain = ran(task, tmp_path / "plain", seed=0, responses=64, samples=64, judge="")
    flawed = ran(task, tmp_path / "flawed", flaw=10.0, seed=0, responses=64, samples=64, judge="")
    has = [FLAW in text["response"] for text in flawed.texts]
    assert [text["response"] for text in plain.texts] == [text["response"] for text in flawed.texts]
    assert all((text["score"] > 5) == hit for text, hit in zip(flawed.texts, has, strict=True))


def test_the_best_of_one_is_the_reference_and_more_score_higher():
    found = best_of(words(2), seed=0, prompts=1)
    assert found["way"][0] == 0.0
    assert abs(found["score"][0]) < 0.4, "standardised, and noise of 0.3"
    assert all(b > a for a, b in zip(found["score"], found["score"][1:], strict=False))
    assert len(found["judge"]) == len(COUNTS)


def test_the_good_responses_are_liked_better_than_the_reference():
    made = Words(4)
    judged = made.scorer(made.judge)
    good = [row["response"] for row in made.good(256)]
    assert sum(judged([PROMPT] * 256, good)) / 256 > 0.0 > -0.5


def test_the_relative_variance_is_that_of_a_known_distribution():
    """Gradients m + e with |m|^2 = 4 and a covariance of trace 8: 2. 100 batches of 4,000 of them."""
    generator = torch.Generator().manual_seed(0)
    found = [relative_variance(1.0 + torch.randn(4000, 4, generator=generator) * math.sqrt(2)) for _ in range(100)]
    assert abs(sum(found) / 100 - 2.0) < 0.02
