"""Schedules, for every setting that may change over a run: `proximo.train(..., learning_rate=Cosine(3e-4))`.

A function of progress in [0, 1] is taken too: `learning_rate=lambda p: 3e-4 * (1 - p) ** 2`.
"""

from proximo.core.schedules import Constant, Cosine, Linear, Piecewise, Schedule

__all__ = ["Constant", "Cosine", "Linear", "Piecewise", "Schedule"]
