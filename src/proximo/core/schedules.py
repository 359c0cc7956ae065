"""Values that change with progress, as data: a schedule is written to a file as text, and read back the same.

Progress is environment steps done / steps planned (control) or responses done / planned (language): never calls, so it
does not depend on how the work is cut into pieces.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

POINTS = 1000
"""A function of progress is read at so many points and kept as the straight lines that pass through them."""

_WHOLE = re.compile(
    r"(?:(?P<shape>linear|cosine)\s+)?(?P<start>[^\s>]+?)(?:\s*->\s*(?P<end>[^\s>]+))?(?:\s+warmup\s+(?P<warmup>\S+))?"
)


class Schedule(ABC):
    """A value as a function of progress in [0, 1]; `str` gives the text that `Schedule.parse` reads."""

    def __eq__(self, other: object) -> bool:
        """Whether both are written the same."""
        return isinstance(other, Schedule) and str(self) == str(other)

    def __hash__(self) -> int:
        """Of the text."""
        return hash(str(self))

    @property
    @abstractmethod
    def start(self) -> float:
        """The value at progress 0, before a warm-up takes its share of it."""

    @property
    @abstractmethod
    def end(self) -> float:
        """The value at progress 1."""

    @property
    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest value."""
        return _range([self.start, self.end])

    @abstractmethod
    def at(self, progress: float) -> float:
        """The value at `progress` in [0, 1]; beyond, that at the nearer end."""

    @property
    def constant(self) -> bool:
        """Whether it is the same number from begin to end."""
        low, high = self.extremes
        return low == high == self.at(0.0)  # a warm-up begins below

    @staticmethod
    def parse(value: "float | str | Schedule | Callable[[float], float]", name: str = "") -> "Schedule":
        """A number, a text, a schedule, or a function of progress, which is read at `POINTS` points.

        Texts: `3e-4`, `3e-4 -> 0`, `cosine 3e-4 -> 0`, each with `warmup 0.05` behind it; `0: 3e-4, 0.5: 1e-4, 1: 0`.

        Args:
            value: one of these.
            name: of the setting, for the error.

        Raises:
            ValueError: it is none of these, or a number is not finite.
        """
        if isinstance(value, Schedule):
            return value
        setting = f"{name} = " if name else ""
        try:
            parsed = _parsed(value) if isinstance(value, int | float | str) else _sampled(value)
        except Exception as error:  # a function of the user's may raise anything
            if callable(value):
                raise ValueError(f"{setting}a function of progress failed or gave no number: {error}") from error
            raise ValueError(
                f"{setting}{value!r} is neither a number nor 'start -> end' (as in '3e-4 -> 0', 'cosine 3e-4 -> 0', "
                "'3e-4 -> 0 warmup 0.05' or '0: 3e-4, 0.5: 1e-4, 1: 0')"
            ) from None
        if not all(map(math.isfinite, parsed.extremes)):
            raise ValueError(f"{setting}{value!r} must be finite")
        return parsed


@dataclass(frozen=True, eq=False)
class _Warmed(Schedule):
    """Schedules from one number to another, with a rise from 0 before."""

    first: float
    last: float
    warmup: float

    def __post_init__(self) -> None:
        """Refuse a warm-up that is no share of the run.

        Raises:
            ValueError: it is outside [0, 1).
        """
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup = {self.warmup} must be in [0, 1)")

    @property
    def start(self) -> float:
        return self.first

    @property
    def end(self) -> float:
        return self.last

    @property
    def extremes(self) -> tuple[float, float]:
        both = (self.first, self.last, *((0.0,) if self.warmup else ()))
        return _range(both)

    def at(self, progress: float) -> float:
        progress = min(max(progress, 0.0), 1.0)
        if progress < self.warmup:
            return self.first * progress / self.warmup
        done = self._share((progress - self.warmup) / (1 - self.warmup))
        return self.first + (self.last - self.first) * done

    def _share(self, progress: float) -> float:
        """How much of the way from the first to the last value is done."""
        return progress

    def __str__(self) -> str:
        """As `Schedule.parse` reads it."""
        way = repr(self.first) if self.first == self.last else f"{self.first!r} -> {self.last!r}"
        return way + (f" warmup {self.warmup!r}" if self.warmup else "")


class Linear(_Warmed):
    """From `start` to `end` in a straight line, after a rise from 0 over the share `warmup` of the run."""

    def __init__(self, start: float, end: float, warmup: float = 0.0) -> None:
        super().__init__(float(start), float(end), float(warmup))


class Constant(Linear):
    """One value, after a rise from 0 over the share `warmup` of the run."""

    def __init__(self, value: float, warmup: float = 0.0) -> None:
        super().__init__(value, value, warmup)


class Cosine(_Warmed):
    """From `start` to `end` along half a cosine (Loshchilov & Hutter 2017, equation 5), after a rise from 0."""

    def __init__(self, start: float, end: float = 0.0, warmup: float = 0.0) -> None:
        super().__init__(float(start), float(end), float(warmup))

    def _share(self, progress: float) -> float:
        return 0.5 * (1.0 - math.cos(math.pi * progress))

    def __str__(self) -> str:
        """As `Schedule.parse` reads it."""
        return f"cosine {self.first!r} -> {self.last!r}" + (f" warmup {self.warmup!r}" if self.warmup else "")


@dataclass(frozen=True, eq=False)
class Piecewise(Schedule):
    """Straight lines between points: `Piecewise({0: 3e-4, 0.5: 1e-4, 1: 0})`. Before and after them the value stays."""

    points: tuple[tuple[float, float], ...]
    """Progress and value, in order."""

    def __init__(self, points: Mapping[float, float] | tuple[tuple[float, float], ...]) -> None:
        pairs = points.items() if isinstance(points, Mapping) else points
        object.__setattr__(self, "points", tuple((float(x), float(y)) for x, y in pairs))
        places = [x for x, _ in self.points]
        if not places or any(a > b for a, b in pairwise(places)) or not 0 <= places[0] <= places[-1] <= 1:
            raise ValueError(f"the points of a schedule must be in order and in [0, 1], and are at {places}")

    @property
    def start(self) -> float:
        """The first point's value."""
        return self.points[0][1]

    @property
    def end(self) -> float:
        """The last point's value."""
        return self.points[-1][1]

    @property
    def extremes(self) -> tuple[float, float]:
        """Of all points."""
        return _range([y for _, y in self.points])

    def at(self, progress: float) -> float:
        """On the line between the two points around `progress`."""
        for (x, y), (after, following) in pairwise(self.points):
            if progress < after:
                return y if progress <= x else y + (following - y) * (progress - x) / (after - x)
        return self.end

    def __str__(self) -> str:
        """As `Schedule.parse` reads it."""
        return ", ".join(f"{x!r}: {y!r}" for x, y in self.points)


def as_setting(value: Any) -> Any:
    """A schedule, or a function of progress, as the text that a file holds; anything else as it is."""
    return str(Schedule.parse(value)) if isinstance(value, Schedule) or callable(value) else value


def _range(values: Sequence[float]) -> tuple[float, float]:
    """The lowest and the highest; both NaN where one is, which `min` and `max` may pass over."""
    return (math.nan, math.nan) if any(map(math.isnan, values)) else (min(values), max(values))


@lru_cache(maxsize=64)
def _parsed(value: float | str) -> Schedule:
    if not isinstance(value, str):
        return Linear(value, value)
    if ":" in value:
        return Piecewise(tuple((float(x), float(y)) for x, y in (part.split(":") for part in value.split(","))))
    match = _WHOLE.fullmatch(value.strip())
    if match is None:
        raise ValueError
    shape = Cosine if match["shape"] == "cosine" else Linear
    start = float(match["start"])
    end = float(match["end"]) if match["end"] else 0.0 if shape is Cosine else start
    return shape(start, end, float(match["warmup"] or 0.0))


def _sampled(function: Callable[[float], float]) -> Piecewise:
    """A function of progress as straight lines: points that lie on the line between their neighbours are left out."""
    points = [(i / POINTS, float(function(i / POINTS))) for i in range(POINTS + 1)]
    scale = max((abs(y) for _, y in points), default=0.0)
    kept = points[:1]
    for i in range(1, POINTS):
        (x0, y0), (x, y), (x1, y1) = kept[-1], points[i], points[i + 1]
        on_the_line = y0 + (y1 - y0) * (x - x0) / (x1 - x0)
        if not abs(y - on_the_line) <= 1e-9 * scale:
            kept.append(points[i])
    return Piecewise((*kept, points[-1]))


def require_rate_to_steer(learning_rate: Schedule, adaptive_kl: float | None) -> None:
    """Refuse a rate that begins at 0 where the KL steers it: it is multiplied, and so stays there.

    Raises:
        ValueError: it does.
    """
    if adaptive_kl is not None and learning_rate.start == 0:
        raise ValueError(
            f"learning_rate = {str(learning_rate)!r} begins at 0, and update.adaptive_kl = {adaptive_kl} multiplies "
            "the rate that it begins with: give one number, or leave adaptive_kl out"
        )


def unfollowed(learning_rate: Schedule, adaptive_kl: float | None) -> str:
    """A sentence where the KL steers a rate that has a schedule; "" where not."""
    if adaptive_kl is None or learning_rate.constant:
        return ""
    return (
        f"learning_rate = {str(learning_rate)!r} is followed no further than its beginning, for update.adaptive_kl "
        "steers the rate from there: leave one of the two out"
    )


@dataclass(frozen=True)
class AdaptiveLearningRate:
    """Learning rate steered by the KL of each update (Schulman et al. 2017, section 4's rule applied to the step).

    Outside [target / 2, 2 * target] the rate is divided or multiplied by `factor`, within [minimum, maximum]. A bound
    never turns the rule round: a rate that lies beyond it already still falls where the KL is too high.
    """

    target_kl: float
    factor: float = 1.5
    minimum: float = 1e-5
    maximum: float = 1e-2

    @classmethod
    def around(cls, target_kl: float, configured: float) -> "AdaptiveLearningRate":
        """The rule with bounds of 1/100 and 10 times the configured rate.

        For a robot's usual 1e-3 these are the 1e-5 and 1e-2 of rsl_rl; a language model's 1e-6 has as much room.
        """
        return cls(target_kl, minimum=configured / 100, maximum=configured * 10)

    def next(self, learning_rate: float, kl: float) -> float:
        """The learning rate after a minibatch of divergence `kl` (nats)."""
        if kl > 2.0 * self.target_kl:
            lowered = learning_rate / self.factor
            return lowered if learning_rate < self.minimum else max(self.minimum, lowered)
        if kl < 0.5 * self.target_kl:
            raised = learning_rate * self.factor
            return raised if learning_rate > self.maximum else min(self.maximum, raised)
        return learning_rate
