"""A search for settings that learn a task better, by Optuna."""

from proximo.control.tuning.search import FEWEST, FILE, NAME, Tuned, importance_of, tune

__all__ = ["FEWEST", "FILE", "NAME", "Tuned", "importance_of", "tune"]
