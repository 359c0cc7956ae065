"""`proximo report`: one page that shows runs, drawn from what they recorded."""

from proximo.views.report.write import report

__all__ = ["report"]
