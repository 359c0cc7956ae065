"""Algorithms, one file each. A subclass of `PPO` that overrides `estimate`, `loss` or `update` is an algorithm too."""

from proximo.algorithms.a2c import A2C
from proximo.algorithms.base import Transitions
from proximo.algorithms.distillation import Distillation
from proximo.algorithms.grpo import GRPO
from proximo.algorithms.ppo import PPO
from proximo.algorithms.ppo_penalty import PPOPenalty
from proximo.algorithms.reinforce import REINFORCE
from proximo.algorithms.rloo import RLOO
from proximo.algorithms.trpo import TRPO

__all__ = ["A2C", "GRPO", "PPO", "REINFORCE", "RLOO", "TRPO", "Distillation", "PPOPenalty", "Transitions"]
