"""Values that change with progress, as data: no lambdas, so a schedule can be written to a file and read back."""

from dataclasses import dataclass
from math import isfinite


@dataclass(frozen=True)
class Schedule:
    """A value that moves linearly from `start` to `end` as progress goes from 0 to 1.

    Progress is environment steps done / steps planned (control) or responses done / planned (language): never
    calls, so it does not depend on how the work is cut into pieces.
    """

    start: float
    end: float

    @classmethod
    def parse(cls, value: "float | int | str | Schedule", name: str = "") -> "Schedule":
        """A number, or the text `start -> end`.

        Args:
            value: either.
            name: of the setting, for the error.

        Raises:
            ValueError: the text is neither, or a number is not finite.
        """
        if isinstance(value, Schedule):
            return value
        start, _, end = value.partition("->") if isinstance(value, str) else (value, "", value)
        setting = f"{name} = " if name else ""
        try:
            parsed = cls(float(start), float(end or start))
        except ValueError:
            raise ValueError(f"{setting}{value!r} is neither a number nor 'start -> end' (as in '3e-4 -> 0')") from None
        if not (isfinite(parsed.start) and isfinite(parsed.end)):
            raise ValueError(f"{setting}{value!r} must be finite")
        return parsed

    def at(self, progress: float) -> float:
        """The value at `progress` in [0, 1]; beyond, the nearer end."""
        progress = min(max(progress, 0.0), 1.0)
        return self.start + (self.end - self.start) * progress


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
