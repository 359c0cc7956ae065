"""Health of a run: findings with codes, causes and remedies, from its metrics alone."""

from proximo.runs.health.codes import CODES, Code, Finding, found
from proximo.runs.health.meter import TruthMeter, Verdict, colours, verdict_on_error

__all__ = ["CODES", "Code", "Finding", "TruthMeter", "Verdict", "colours", "found", "verdict_on_error"]
