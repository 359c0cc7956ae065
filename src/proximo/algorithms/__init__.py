"""Algorithms, one file each. A subclass of `PPO` that overrides `estimate`, `loss` or `update` is an algorithm too."""

from proximo.algorithms.base import Transitions
from proximo.algorithms.ppo import PPO

__all__ = ["PPO", "Transitions"]
