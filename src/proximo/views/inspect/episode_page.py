"""The page about one episode: a film strip over time, and below it what each step gave."""

from base64 import b64encode
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np

from proximo.views.report.page import page

if TYPE_CHECKING:
    from proximo.views.inspect.episode import EpisodeInspection

PICTURES = 12


def html(found: "EpisodeInspection", title: str, about: str, pictures: Sequence[bytes]) -> str:
    """The page. What comes from the run is in its data only, and is set as text.

    Args:
        found: the episode.
        title: first line.
        about: of what policy it is.
        pictures: JPEG, one before each step; none leaves the strip out.
    """
    script = (files("proximo.views.inspect") / "episode.js").read_text("utf-8")
    return page(title, page_data(found, title, about, pictures), script)


def page_data(found: "EpisodeInspection", title: str, about: str, pictures: Sequence[bytes]) -> dict[str, Any]:
    """What the page shows, as JSON."""
    steps, worst = found.steps, found.steps.worst
    columns = {name: [float(f"{x:.5g}") for x in column] for name, column in vars(steps).items()}
    ratio = None if found.ratio is None else [float(f"{x:.5g}") for x in found.ratio]
    shown: Sequence[int] = (
        np.unique(np.linspace(0, len(pictures) - 1, PICTURES).round().astype(int)).tolist() if pictures else []
    )
    ended = found.ended or "cut at the limit"
    return {
        "title": title,
        "about": f"{about}: {steps.count}, return {found.total:,.4g}, {ended}",
        "worst": worst,
        "said": f"The critic was most wrong at step {worst}: it said {steps.value[worst]:.4g}, and "
        f"{steps.returned[worst]:.4g} followed.",
        "notes": list(found.notes),
        "columns": columns | ({} if ratio is None else {"ratio": ratio}),
        "pictures": [[int(t), "data:image/jpeg;base64," + b64encode(pictures[t]).decode()] for t in shown],
    }
