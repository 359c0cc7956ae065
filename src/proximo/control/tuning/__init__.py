"""A search for settings that learn a task better, by Optuna."""

from proximo.control.tuning.search import FILE, NAME, Tuned, importance_of, tune

__all__ = ["FILE", "NAME", "Tuned", "importance_of", "tune"]
