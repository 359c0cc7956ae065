"""What went well in a run, what broke and when, and what to change first: from its files alone."""

from proximo.runs.doctor.report import Report, examine_run, format_report

__all__ = ["Report", "examine_run", "format_report"]
