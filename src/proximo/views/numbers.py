"""Numbers for people: short ones, and few enough of them to draw."""

from collections.abc import Sequence
from math import isfinite

_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def short(value: float | int | None) -> str:
    """At most five digits: 0.0123, 4,567, 1.23M; "-" for what is not there.

    >>> short(1_234_567), short(0.00012345), short(None)
    ('1.23M', '0.0001235', '-')
    """
    if value is None or not isfinite(value):
        return "-"
    for size, prefix in _PREFIXES:
        if abs(value) >= 0.9995 * size:  # what rounds up to it
            return f"{value / size:.3g}{prefix}" if abs(value) < 9.995e14 else f"{value:.3g}"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.4g}"


def clock(seconds: float) -> str:
    """`12.3 s`, `4 min 05 s`, `3 h 07 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def thinned(x: Sequence[float], y: Sequence[float | None], buckets: int) -> tuple[list[float], list[float | None]]:
    """Both ends, and of each bucket of neighbours the smallest and the largest, so that no spike is lost.

    Args:
        x: rising.
        y: as many; None is a gap, which stays one only where a whole bucket is empty.
        buckets: at least 1.
    """
    n = len(x)
    if n <= 2 * buckets:
        return list(x), [_rounded(value) for value in y]
    xs: list[float] = []
    ys: list[float | None] = []
    for b in range(buckets):
        inside = range(b * n // buckets, (b + 1) * n // buckets)
        known = [(value, i) for i in inside if (value := y[i]) is not None]
        if not known:
            xs.append(x[inside[0]])
            ys.append(None)
            continue
        low, high = min(known)[1], max(known)[1]
        ends = {0, n - 1} & set(inside)
        for i in sorted({low, high, *ends}):
            xs.append(x[i])
            ys.append(_rounded(y[i]))
    return xs, ys


def _rounded(value: float | None) -> float | None:
    """Five digits are more than a screen shows; all of them are most of a page's size."""
    return None if value is None else float(f"{value:.5g}")
