"""Short numbers, and few enough of them to draw."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proximo.views.numbers import clock, short, thinned

NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**20), 10**20)


@given(NUMBERS)
def test_no_number_has_more_than_six_digits(value):
    digits, _, power = short(value).partition("e")
    assert len(re.sub(r"\D", "", digits.lstrip("-").lstrip("0."))) <= 6
    assert len(power.lstrip("+-")) <= 3


@given(st.floats(-1e14, 1e14))
def test_a_short_number_is_near_the_number(value):
    text = short(value).replace(",", "")
    factor = {"M": 1e6, "G": 1e9, "T": 1e12}.get(text[-1], 1.0)
    assert float(text.rstrip("MGT")) * factor == pytest.approx(value, rel=6e-3)


def test_what_is_not_there_and_what_is_not_finite_are_dashes():
    assert {short(None), short(float("nan")), short(float("inf"))} == {"-"}
    assert (clock(3.21), clock(59.99), clock(245), clock(11_220)) == ("3.2 s", "1 min 00 s", "4 min 05 s", "3 h 07 min")


@given(st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=300), st.integers(1, 20))
def test_a_thinned_curve_keeps_its_ends_and_every_extreme(y, buckets):
    x = list(range(len(y)))
    xs, ys = thinned(x, y, buckets)
    assert xs == sorted(set(xs))
    assert len(xs) <= 2 * buckets + 2
    assert (xs[0], xs[-1]) == (0, x[-1]) or y[0] is None or y[-1] is None
    known, kept = [v for v in y if v is not None], [v for v in ys if v is not None]
    assert bool(known) == bool(kept)
    if known:
        assert (min(kept), max(kept)) == pytest.approx((min(known), max(known)), rel=1e-4, abs=1e-300)
    assert all(b == pytest.approx(y[a], rel=1e-4, abs=1e-300) for a, b in zip(xs, ys, strict=True) if b is not None)
