"""Diagnosis of a run from its files alone: what went well, what broke and when, and what to change first."""

from proximo.runs.doctor.report import Report, examine_run, format_report

__all__ = ["Report", "examine_run", "format_report"]
