"""Before PPO's first step: a table of what is often wrong in silence, each with its remedy."""

from proximo.language.ppo.preflight.check import Check, Verdict, failed, rows
from proximo.language.ppo.preflight.flight import preflight

__all__ = ["Check", "Verdict", "failed", "preflight", "rows"]
