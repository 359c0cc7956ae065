import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.core.schedules import AdaptiveLearningRate, Schedule

numbers = st.floats(-1e3, 1e3)


def test_the_value_moves_along_a_straight_line():
    schedule = Schedule(4.0, 1.0)
    assert [schedule.at(x) for x in (0.0, 1 / 3, 0.5, 1.0)] == pytest.approx([4.0, 3.0, 2.5, 1.0])
    assert (schedule.at(-1.0), schedule.at(2.0)) == (4.0, 1.0)


@settings(deadline=None)
@given(start=numbers, end=numbers, a=st.floats(0, 1), b=st.floats(0, 1))
def test_halfway_is_half_the_way(start, end, a, b):
    schedule = Schedule(start, end)
    middle = (schedule.at(a) + schedule.at(b)) / 2
    assert schedule.at((a + b) / 2) == pytest.approx(middle, abs=1e-9)
    assert min(start, end) - 1e-9 <= schedule.at(a) <= max(start, end) + 1e-9


@settings(deadline=None)
@given(start=numbers, end=numbers, progress=st.floats(-1, 2))
def test_a_schedule_survives_being_written_as_text(start, end, progress):
    assert Schedule.parse(f"{start!r} -> {end!r}") == Schedule(start, end)
    assert Schedule.parse(start).at(progress) == start


def test_numbers_texts_and_schedules_are_read():
    assert Schedule.parse(3) == Schedule.parse("3") == Schedule.parse(3.0) == Schedule(3.0, 3.0)
    assert Schedule.parse("3e-4->0") == Schedule(3e-4, 0.0)
    schedule = Schedule(1.0, 2.0)
    assert Schedule.parse(schedule) is schedule


@pytest.mark.parametrize("text", ["fast", "", "1 -> two", "-> 1", "1 -> 2 -> 3", "1, 2"])
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
