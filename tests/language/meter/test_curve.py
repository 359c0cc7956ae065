"""The curve of a judge's score: known curves come back, and the interval of the peak holds it as often as it says."""

import itertools
import math

import pytest
import torch

from proximo.language.meter.curve import FEWEST, Curve, best_of_n, divergence_of_best, fallen, fit, fit_of_means
from proximo.language.meter.meter import AGAIN, FALLEN, SURE


def measured(curve, ways, prompts=64, noise=0.0, seed=0):
    """Scores and divergences `[M, P]`; each prompt's own noise moves slowly with the way, as fixed noise does."""
    generator = torch.Generator().manual_seed(seed)
    ways = torch.as_tensor(ways, dtype=torch.float64)
    own = torch.randn(2, 3, prompts, generator=generator, dtype=torch.float64)
    phases = torch.stack([torch.ones_like(ways), torch.sin(ways), torch.cos(ways)], 1)
    scores = torch.tensor([curve.at(float(d)) for d in ways])[:, None] + noise * phases @ own[0]
    divergences = (ways**2)[:, None] * (1 + noise * (phases @ own[1]))
    return scores, divergences


@pytest.mark.parametrize("curve", [Curve(0.3, 1.0, 0.5), Curve(-1.0, 0.2, 0.4), Curve(0.0, 2.0, 3.0)])
def test_a_curve_without_noise_comes_back(curve):
    found = fit(*measured(curve, [i * curve.peak / 10 for i in range(20)]))
    assert found is not None
    for name in ("start", "alpha", "beta"):
        assert math.isclose(getattr(found.curve, name), getattr(curve, name), rel_tol=1e-6, abs_tol=1e-6)
    assert math.isclose(found.curve.peak, curve.peak, rel_tol=1e-6)
    assert abs(found.peak - curve.peak) < 0.11 * curve.peak, "one of the measurements, a tenth apart, beside it at most"
    assert found.passed == 1.0


def test_the_peak_is_where_the_curve_is_highest():
    curve = Curve(0.0, 1.3, 0.7)
    ways = torch.linspace(0.01, 5, 5000)
    assert abs(float(ways[max(range(5000), key=lambda i: curve.at(float(ways[i])))]) - curve.peak) < 2e-3
    assert Curve(0.0, 1.0, 0.0).peak == math.inf, "it only rises"
    assert Curve(0.0, -1.0, 0.0).peak == 0.0, "it only falls"


def test_a_peak_that_is_not_reached_is_foretold_without_noise():
    curve = Curve(0.0, 1.0, 0.5)
    found = fit(*measured(curve, [i * curve.peak / 20 for i in range(12)]))
    assert found is not None
    assert math.isclose(found.peak, curve.peak, rel_tol=1e-6)
    assert found.passed == 0.0


def test_the_interval_holds_the_peak_as_often_as_it_says():
    """Of 100 intervals of 95 % at least 88 hold the truth (a binomial's chance of fewer: 0.4 %)."""
    curve = Curve(0.0, 1.0, 0.5)
    ways = [i * curve.peak / 10 for i in range(20)]
    held = 0
    for seed in range(100):
        found = fit(*measured(curve, ways, noise=0.5, seed=seed))
        held += found.low <= curve.peak <= found.high
    assert held >= 88


def test_measurements_that_are_repeated_far_beyond_the_peak_do_not_move_it():
    curve = Curve(0.0, 1.0, 0.5)
    ways = [i * curve.peak / 10 for i in range(20)]
    scores, divergences = measured(curve, ways, noise=0.3)
    more = [torch.cat([x, x[-1:].expand(50, -1)]) for x in (scores, divergences)]
    one, other = fit(scores, divergences), fit(*more)
    assert one.peak == other.peak
    assert math.isclose(one.curve.peak, other.curve.peak, rel_tol=0.02)


def test_a_sharp_turn_is_where_it_was_measured():
    """A tent, which is far from the law: its top is found all the same."""
    ways = torch.arange(0, 3, 0.1, dtype=torch.float64)
    means = torch.where(ways < 0.8, ways, 0.8 - 5 * (ways - 0.8))
    curve, peak = fit_of_means(ways, means)
    assert abs(peak - 0.8) <= 0.2, "within the neighbours that are smoothed over"
    assert abs(curve.peak - 0.8) > 0.25, "which the law alone does not find"


@pytest.mark.parametrize("top", [6, 12, 20])
def test_the_peak_of_a_parabola_is_at_its_top(top):
    """Means over neighbours lower a parabola by the same everywhere, as long as they reach equally far."""
    ways = torch.arange(40, dtype=torch.float64)
    _, peak = fit_of_means(ways, -(ways - top).square())
    assert math.isclose(peak, top)


def test_too_few_measurements_and_a_policy_that_stands_still_say_nothing():
    curve = Curve(0.0, 1.0, 0.5)
    assert fit(*measured(curve, range(FEWEST - 1))) is None
    assert fit(*measured(curve, [0.0] * 10)) is None


def test_the_best_of_n_is_the_mean_over_all_subsets():
    generator = torch.Generator().manual_seed(0)
    scores, judged = torch.randn(2, 7, generator=generator).tolist()
    for count in (1, 2, 3, 7):
        chosen = [max(rows, key=lambda i: scores[i]) for rows in itertools.combinations(range(7), count)]
        assert math.isclose(best_of_n(scores, judged, count), sum(judged[i] for i in chosen) / len(chosen))
    with pytest.raises(ValueError, match="best of 8"):
        best_of_n(scores, judged, 8)


def test_the_divergence_of_the_best_of_n_is_that_of_many_equal_responses():
    """Of N equally likely responses the i-th best is the best of n with ((i/N)^n - ((i-1)/N)^n); N -> infinity."""
    size = 20_000
    for count in (1, 2, 16, 64):
        ranks = torch.arange(size + 1, dtype=torch.float64) / size
        chosen = (ranks**count).diff()
        exact = float((chosen * (chosen * size).clamp_min(1e-300).log()).sum())
        assert math.isclose(divergence_of_best(count), exact, abs_tol=0.01)


def stops(rows, seed):
    """Whether a judge with this true mean at each look would end a run: by the meter's rule, on 64 prompts."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(64, generator=generator, dtype=torch.float64)
    scores, twice = [], 0
    for mean in rows:
        own = 0.9 * own + (1 - 0.9**2) ** 0.5 * torch.randn(64, generator=generator, dtype=torch.float64)
        scores.append(mean + own)
        if len(scores) < FEWEST:
            continue
        seen = torch.stack(scores)
        ways = torch.arange(len(scores), dtype=torch.float64)[:, None].expand(-1, 64)
        twice = twice + 1 if fallen(seen) > FALLEN and fit(seen, ways).passed >= SURE else 0  # the cheaper one first
        if twice == AGAIN:
            return True
    return False


@pytest.mark.parametrize("rise", [0.0, 0.3])
def test_a_judge_who_never_turns_ends_no_run(rise):
    """Flat, or rising to the end, over 30 looks: at most 3 of 40 runs are ended by chance."""
    assert sum(stops([rise * i / 30 for i in range(30)], seed) for seed in range(40)) <= 3


def test_a_judge_who_turns_clearly_ends_the_run():
    """Up by 1 deviation in 10 looks, and down again in 10."""
    turning = [1 - abs(i - 10) / 10 for i in range(21)]
    assert sum(stops(turning, seed) for seed in range(20)) >= 18


def test_the_fall_is_a_standard_normal_where_nothing_falls():
    """Mean at most 0 and deviation about 1 over 400 judges of 20 looks, although the best is sought."""
    generator = torch.Generator().manual_seed(1)
    found = torch.tensor([fallen(torch.randn(20, 64, generator=generator)) for _ in range(400)])
    assert abs(float(found.mean())) < 0.25
    assert 0.8 < float(found.std()) < 1.25
