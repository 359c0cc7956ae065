"""The page: one HTML file with style, scripts and data inside, and nothing that it would have to load."""

import json
from html import escape
from importlib.resources import files
from typing import Any

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
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; connect-src {}"
)
"""The browser itself refuses what the page should not need: other hosts, frames, forms."""


def html(data: dict[str, Any]) -> str:
    """The page about `data` (`report.data.page_data`). Names and texts of runs are in the data only, never in HTML."""
    from plotly.offline import get_plotlyjs

    here = files("proximo.views.report")
    return _PAGE.format(
        policy=_POLICY.format("'self'" if data["live"] else "'none'"),
        title=escape(f"{data['title']} · Proximo").encode("utf-8", "replace").decode(),
        style=(here / "page.css").read_text("utf-8"),
        data=as_json(data),
        plotly=get_plotlyjs(),
        scripts="\n".join(
            (here / f"{name}.js").read_text("utf-8") for name in ("figures", "credit", "page", "live", "start")
        ),
    )


def as_json(data: dict[str, Any]) -> str:
    """JSON that may stand inside a script element: no `<`, so that nothing in it can end the element."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
