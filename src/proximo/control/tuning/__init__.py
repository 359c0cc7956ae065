"""A search for settings that learn a task better, by Optuna."""

from proximo.control.tuning.search import Tuned, tune

__all__ = ["Tuned", "tune"]
