"""Whether a scorer's held-out accuracy is more than a coin's: a judge or reward model that is none must not decide."""

import math
from collections.abc import Mapping
from typing import Any

SURE = 2.0
"""Standard errors above one half from which on an accuracy is no luck."""
NEAR = 0.05
"""What few pairs can not tell from luck is let pass from this far above one half."""
BETTER = "check that chosen and rejected are not swapped, and train it longer (steps, epochs, minutes)"
"""What to do about it."""


def standard_error(pairs: int, texts: int) -> float:
    """Highest standard error of a coin's accuracy on pairs that share texts.

    Pairs with a text in common are not independent: at most half as many are as there are texts.

    Args:
        pairs: on which people were not at even odds.
        texts: distinct ones in these pairs.
    """
    return 0.5 / math.sqrt(max(1.0, min(pairs, texts / 2)))


def no_better_than_chance(report: Mapping[str, Any]) -> str:
    """What is wrong with a scorer of this held-out report, in a clause; "" if nothing is, or it was not measured.

    Args:
        report: of `preference_report`; needs `accuracy` and `accuracy_se`.
    """
    if "accuracy" not in report or "accuracy_se" not in report:
        return ""
    accuracy = float(report["accuracy"])
    needed = 0.5 + min(SURE * float(report["accuracy_se"]), NEAR)
    if accuracy > needed:
        return ""
    return (
        f"it tells {accuracy:.1%} of its {report.get('pairs', 0):,} held-out pairs right, no better than chance (more "
        f"than {needed:.1%} would be)"
    )
