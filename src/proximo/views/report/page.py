"""The page: one HTML file with style, scripts and data inside, and nothing that it would have to load."""

import json
from html import escape
from importlib.resources import files
from typing import Any

from proximo.views import plotly

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<main id="page"></main>
<noscript>This page draws its figures with JavaScript: switch it on.</noscript>
<script type="application/json" id="data">{data}</script>
<script>{plotly}</script>
<script>
{scripts}
</script>
</body>
</html>
"""
SCRIPTS = ("figures", "draw", "credit", "study", "page", "live", "start")
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data:{}; connect-src {}"
)
"""The browser itself refuses what the page should not need: other hosts, frames, forms."""


def html(data: dict[str, Any]) -> str:
    """The page about `data` (`report.data.page_data`). Names and texts of runs are in the data only, never in HTML."""
    here = files("proximo.views.report")
    scripts = [(here / f"{name}.js").read_text("utf-8") for name in SCRIPTS]
    return page(f"{data['title']} · Proximo", data, "\n".join(scripts), connects=data["live"])


def page(title: str, data: dict[str, Any], script: str, *, connects: bool = False) -> str:
    """A page of the views' style that a script draws with Plotly from its data.

    Args:
        title: of the window; may be of a run.
        data: JSON; what comes from a run stands here.
        script: ours.
        connects: whether it may ask the server that it came from for more, films too.
    """
    return _PAGE.format(
        policy=_POLICY.format(*(" 'self'", "'self'") if connects else ("", "'none'")),
        title=escape(title).encode("utf-8", "replace").decode(),
        style=(files("proximo.views.report") / "page.css").read_text("utf-8"),
        data=as_json(data),
        plotly=plotly.script(),
        scripts=script,
    )


def as_json(data: dict[str, Any]) -> str:
    """JSON that may stand inside a script element: no `<`, so that nothing in it can end the element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
