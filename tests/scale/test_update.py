"""One update on 1, 2, 4 or 8 ranks is one update, however the environments are shared out."""

import numpy as np
import pytest
from ranks import on_ranks
from update_ranks import CASES, ROWS, STEPS, alone, every_update, everything

HALVES, UNEVEN = [slice(0, 4), slice(4, 8)], [slice(0, 5), slice(5, 8)]
QUARTERS, FOUR = [slice(2 * i, 2 * i + 2) for i in range(4)], [slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 8)]


@pytest.fixture(scope="module", params=[2, 4])
def told(request):
    shares = [HALVES, UNEVEN] if request.param == 2 else [QUARTERS, FOUR]
    return on_ranks(request.param, f"update_ranks:{everything.__name__}", shares)


@pytest.fixture(scope="module")
def whole():
    return alone()


@pytest.mark.parametrize("case", CASES)
def test_the_update_is_that_of_one_process(told, whole, case):
    weights, report = whole[case]
    for share in range(2):
        for rank in told:
            found, tells = rank["updates"][share][case]
            np.testing.assert_allclose(found, weights, rtol=0, atol=1e-9)
            assert tells.keys() == report.keys()
            for name in report:  # statistics are float32 in one process too
                assert tells[name] == pytest.approx(report[name], rel=2e-5, abs=1e-7), name


def test_eight_ranks_of_one_environment_each_make_the_update_of_one_process(whole):
    shares = [[slice(i, i + 1) for i in range(8)]]
    every = on_ranks(8, f"update_ranks:{every_update.__name__}", shares)
    for case in CASES:
        for rank in every:
            np.testing.assert_allclose(rank[0][case][0], whole[case][0], rtol=0, atol=1e-9, err_msg=case)
            assert rank[0][case] == every[0][0][case]


def test_the_cases_are_what_their_names_say(whole):
    assert whole["stopped by the KL"][1]["steps"] < whole["closed form"][1]["steps"] == 3
    assert whole["rate by the KL"][1]["rate"] != 0.02
    assert whole["penalty"][0] != whole["autograd"][0]
    assert whole["advantages as they are"][0] != whole["closed form"][0]


def test_every_rank_has_the_same_weights_and_numbers_to_the_last_bit(told):
    for rank in told[1:]:
        assert rank["updates"] == told[0]["updates"]


def test_minibatches_are_parts_of_every_ranks_samples_and_have_the_gradient_of_all_of_them(told):
    for rank in told:
        seen = [number for numbers, _, _ in rank["minibatches"] for number in numbers]
        assert sorted(seen) == list(range(ROWS * STEPS))
        sizes = [len(numbers) for numbers, _, _ in rank["minibatches"]]
        assert max(sizes) - min(sizes) <= len(told)
        for _, off, statistics_off in rank["minibatches"]:
            assert off < 1e-9
            assert statistics_off < 1e-6


def test_a_first_ratio_is_judged_alike_on_all_ranks_or_one_would_stop_alone(told):
    every, own = zip(*(rank["allowed"] for rank in told), strict=True)
    assert max(own) > 2 * min(own)
    assert set(every) == {max(own)}


def test_moments_and_the_rewards_scale_are_those_of_all_samples_also_where_a_rank_has_none(told):
    for rank in told:
        off, scale, expected = rank["statistics"]
        assert off < 1e-9
        assert scale == pytest.approx(expected)


def test_whole_episodes_are_missing_only_where_no_rank_has_one(told):
    for number, rank in enumerate(told):
        some, none = rank["whole episodes"]
        assert some == [[float(number == 1), 0.0]] * 3 + [[0.0, 0.0]]
        assert none.startswith("no episode ended in a rollout of 4 steps")
