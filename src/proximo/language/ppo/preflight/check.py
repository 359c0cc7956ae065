"""What a check says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    verdict: Verdict
    seen: str
    """What was measured, with its numbers."""
    remedy: str = ""
    """What to do about it; empty where nothing is to be done."""


def failed(checks: Sequence[Check]) -> list[Check]:
    """Those that are to be mended before a run makes sense."""
    return [check for check in checks if check.verdict == "fail"]


def rows(checks: Sequence[Check]) -> list[tuple[str, str, str]]:
    """The table, the remedy behind what was seen."""
    return [(c.verdict.upper(), c.name, c.seen + (f"; {c.remedy}" if c.remedy else "")) for c in checks]
