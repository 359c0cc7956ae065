"""The part of plotly.js that the pages need (lines, bars, heatmaps), built by `make plotly` and kept here.

A page's browser has to read all of the script before it draws anything: the whole library is 4.8 MB and takes four
fifths of the time that a report needs to open, this part is 1.2 MB. It is under the MIT licence, beside it.
"""

from importlib.resources import files


def script() -> str:
    """JavaScript that defines `Plotly`; it may stand inside a script element."""
    return (files("proximo.views.plotly") / "plotly.min.js").read_text("utf-8")
