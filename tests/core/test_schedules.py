import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.schedules import (
    AdaptiveLearningRate,
    Constant,
    Cosine,
    Linear,
    Piecewise,
    Schedule,
    as_setting,
    require_rate_to_steer,
    unfollowed,
)

numbers = st.floats(-1e3, 1e3)


def test_the_value_moves_along_a_straight_line():
    schedule = Linear(4.0, 1.0)
    assert [schedule.at(x) for x in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([4.0, 3.0, 2.5, 1.0])
    assert (schedule.at(-1.0), schedule.at(2.0)) == (4.0, 1.0)


@settings(deadline=None)
@given(start=numbers, end=numbers, a=st.floats(0, 1), b=st.floats(0, 1))
def test_halfway_is_half_the_way(start, end, a, b):
    schedule = Linear(start, end)
    middle = (schedule.at(a) + schedule.at(b)) / 2
    assert schedule.at((a + b) / 2) == pytest.approx(middle, abs=1e-9)
    assert min(start, end) - 1e-9 <= schedule.at(a) <= max(start, end) + 1e-9


@settings(deadline=None)
@given(start=numbers, end=numbers, progress=st.floats(-1, 2))
def test_a_schedule_survives_being_written_as_text(start, end, progress):
    assert Schedule.parse(f"{start!r} -> {end!r}") == Linear(start, end)
    assert Schedule.parse(start).at(progress) == start


def test_numbers_texts_and_schedules_are_read():
    assert Schedule.parse(3) == Schedule.parse("3") == Schedule.parse(3.0) == Linear(3.0, 3.0) == Constant(3)
    assert Schedule.parse("3e-4->0") == Linear(3e-4, 0.0)
    schedule = Linear(1.0, 2.0)
    assert Schedule.parse(schedule) is schedule


@pytest.mark.parametrize(
    "text",
    [
        "fast",
        "",
        "1 -> two",
        "-> 1",
        "1 -> 2 -> 3",
        "1, 2",
        "cosine",
        "0: 1, 2",
        "1: 0, 0: 1",
        "0: 1, 2: 0",
        "1 warmup 1",
        "1 warmup",
        "sine 1 -> 0",
    ],
)
def test_other_texts_are_refused_by_name(text):
    with pytest.raises(ValueError, match="neither a number nor"):
        Schedule.parse(text)


@pytest.mark.parametrize(
    ("kl", "expected"), [(0.0, 1.5e-3), (0.0049, 1.5e-3), (0.0051, 1e-3), (0.0199, 1e-3), (0.0201, 1e-3 / 1.5)]
)
def test_the_rate_follows_the_divergence(kl, expected):
    assert AdaptiveLearningRate(target_kl=0.01).next(1e-3, kl) == pytest.approx(expected)


@settings(deadline=None)
@given(rate=st.floats(1e-5, 1e-2), kls=st.lists(st.floats(0, 1), max_size=40))
def test_the_rate_stays_within_its_bounds(rate, kls):
    rule = AdaptiveLearningRate(target_kl=0.01)
    for kl in kls:
        rate = rule.next(rate, kl)
        assert 1e-5 <= rate <= 1e-2
    for _ in range(20):
        rate = rule.next(rate, 1.0)
    assert rate == 1e-5
    for _ in range(20):
        rate = rule.next(rate, 0.0)
    assert rate == 1e-2


@settings(deadline=None)
@given(rate=st.floats(1e-12, 1e3), kl=st.floats(0, 100), configured=st.sampled_from([1e-7, 1e-3, 1.0, None]))
def test_no_bound_turns_the_rule_round(rate, kl, configured):
    plain = AdaptiveLearningRate(target_kl=0.01)
    rule = plain if configured is None else AdaptiveLearningRate.around(0.01, configured)
    after = rule.next(rate, kl)
    if kl > 0.02:
        assert after < rate or after == rate == rule.minimum
    elif kl < 0.005:
        assert after > rate or after == rate == rule.maximum
    else:
        assert after == rate


@pytest.mark.parametrize("configured", [1e-6, 3e-4, 1.0])
def test_the_bounds_lie_around_the_configured_rate(configured):
    rule = AdaptiveLearningRate.around(0.01, configured)
    down = up = configured
    for _ in range(20):
        down, up = rule.next(down, 1.0), rule.next(up, 0.0)
    assert (down, up) == pytest.approx((configured / 100, configured * 10))


@pytest.mark.parametrize("value", ["nan", "inf -> 0", "1 -> nan", float("inf"), float("nan")])
def test_what_is_not_finite_is_refused_by_name(value):
    with pytest.raises(ValueError, match=r"^clip = .* must be finite$"):
        Schedule.parse(value, "clip")


share = st.floats(0, 1, exclude_max=True).filter(lambda x: x == 0 or x > 1e-3)
written = st.one_of(
    st.builds(Linear, numbers, numbers, share),
    st.builds(Cosine, numbers, numbers, share),
    st.builds(Constant, numbers, share),
    st.lists(st.floats(0, 1), min_size=1, max_size=6).flatmap(
        lambda places: st.lists(numbers, min_size=len(places), max_size=len(places)).map(
            lambda values: Piecewise(tuple(zip(sorted(places), values, strict=True)))
        )
    ),
)


@settings(deadline=None)
@given(schedule=written, progress=st.floats(-1, 2))
def test_every_schedule_comes_back_from_its_text_and_stays_within_its_extremes(schedule, progress):
    again = Schedule.parse(str(schedule))
    assert again == schedule
    assert again.at(progress) == schedule.at(progress)
    lowest, highest = schedule.extremes
    assert lowest - 1e-9 <= schedule.at(progress) <= highest + 1e-9


def test_a_cosine_is_slow_at_both_ends_and_symmetric():
    schedule = Cosine(2.0, 0.0)
    assert [schedule.at(x) for x in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([2, 1 + 0.5**0.5, 1, 1 - 0.5**0.5, 0])


@pytest.mark.parametrize("schedule", [Linear(3.0, 0.0, 0.1), Cosine(3.0, warmup=0.1), Constant(3.0, 0.1)])
def test_a_warmup_rises_from_0_to_the_start_in_a_line(schedule):
    assert [schedule.at(x) for x in (0.0, 0.05, 0.1)] == pytest.approx([0.0, 1.5, 3.0])
    assert schedule.at(1.0) == schedule.end


def test_points_are_joined_by_lines_and_a_step_is_two_points_at_one_place():
    schedule = Schedule.parse("0.2: 4, 0.4: 2, 0.6: 2, 0.6: 1")
    assert [schedule.at(x) for x in (0, 0.2, 0.3, 0.5, 0.6, 1)] == pytest.approx([4, 4, 3, 2, 1, 1])


@pytest.mark.parametrize(
    ("function", "most"), [(lambda p: 3e-4 * (1 - p), 2), (lambda p: 1.0 if p < 0.5 else 0.1, 4), (lambda p: 7, 2)]
)
def test_a_function_of_lines_is_kept_in_as_many_points_as_it_has(function, most):
    kept = Schedule.parse(function)
    assert len(kept.points) <= most
    for p in (0, 0.1, 0.4, 0.6, 0.77, 1):
        assert kept.at(p) == pytest.approx(function(p))


def test_a_curve_is_kept_to_a_millionth_of_its_height():
    kept = Schedule.parse(lambda p: 3e-4 * (1 - p) ** 2)
    for i in range(4001):
        assert kept.at(i / 4000) == pytest.approx(3e-4 * (1 - i / 4000) ** 2, abs=3e-4 * 1e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [(lambda p: 1 / p, "division"), (lambda p: "x", "could not convert"), (lambda: 1, "argument")],
)
def test_a_function_that_fails_is_refused_with_its_reason(function, reason):
    with pytest.raises(ValueError, match=f"^clip = a function of progress failed or gave no number: .*{reason}"):
        Schedule.parse(function, "clip")


def test_what_a_file_can_not_hold_is_made_a_text_and_the_rest_stays():
    assert [as_setting(x) for x in (0.1, "1 -> 0", None)] == [0.1, "1 -> 0", None]
    assert as_setting(Linear(1, 0)) == "1.0 -> 0.0"
    assert Schedule.parse(as_setting(lambda p: math.exp(-p))).at(0.5) == pytest.approx(math.exp(-0.5), rel=1e-6)


@pytest.mark.parametrize("text", ["0 -> 1e-3", "cosine 0 -> 1e-5 warmup 0.1", "0: 0, 0.5: 1e-4, 1: 0"])
def test_a_rate_that_begins_at_0_is_none_to_multiply(text):
    rate = Schedule.parse(text)
    with pytest.raises(ValueError, match=r"begins at 0, and update\.adaptive_kl = 0\.01 multiplies"):
        require_rate_to_steer(rate, 0.01)
    require_rate_to_steer(rate, None)
    require_rate_to_steer(Schedule.parse("cosine 1e-3 -> 0 warmup 0.1"), 0.01)  # it begins at 1e-3, without the warm-up


def test_a_schedule_that_the_kl_takes_over_is_said():
    assert "is followed no further than its beginning" in unfollowed(Schedule.parse("3e-4 -> 0"), 0.01)
    assert not unfollowed(Schedule.parse("3e-4 -> 0"), None)
    assert not unfollowed(Schedule.parse(3e-4), 0.01)
