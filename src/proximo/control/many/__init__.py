"""One training for each of several seeds."""

from proximo.control.many.each import folders, train_each, train_seeds

__all__ = ["folders", "train_each", "train_seeds"]
