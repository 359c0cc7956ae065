"""What ends a run before its last step: a return that is reached, or time that is used up."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

MOST = 100
"""Episodes of which a run keeps the returns."""
_UNTIL = re.compile(r"return\s*=\s*(?P<target>[-+.\deE]+)(\s*:\s*(?P<episodes>\d+))?")


@dataclass(frozen=True)
class Until:
    """A mean return over the last episodes."""

    target: float
    episodes: int = MOST

    @classmethod
    def parse(cls, text: str) -> Until:
        """Read `return=475:100`, or `return=475` for 100 episodes.

        Raises:
            ValueError: it is written otherwise, or of more episodes than are kept.
        """
        found = _UNTIL.fullmatch(text.strip())
        try:
            target = float(found["target"]) if found else float("nan")
        except ValueError:
            target = float("nan")
        episodes = int(found["episodes"] or MOST) if found else MOST
        if target != target or not 1 <= episodes <= MOST:
            raise ValueError(
                f"until = {text!r} must be return=NUMBER or return=NUMBER:EPISODES, of 1 to {MOST} episodes, as "
                "return=475:100"
            )
        return cls(target, episodes)

    def reached(self, returns: Sequence[float]) -> bool:
        """Whether the last of these have that mean; never before there are so many."""
        last = list(returns)[-self.episodes :]
        return len(last) == self.episodes and sum(last) / len(last) >= self.target


def reason_to_end(until: str, max_minutes: float | None, returns: Sequence[float], seconds: float) -> str | None:
    """The setting that ends a run here; None where it goes on.

    Args:
        until: the setting.
        max_minutes: the setting.
        returns: of the last training episodes.
        seconds: of the run so far.
    """
    if until and Until.parse(until).reached(returns):
        return f"until {until}"
    return f"max_minutes {max_minutes:g}" if max_minutes is not None and seconds >= 60 * max_minutes else None
