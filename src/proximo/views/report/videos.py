"""Videos of control runs: inside a page as far as there is room, or loaded by one that is served."""

import base64
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from proximo.views.seen import Seen

MOST = 6
"""Videos of one run that a page shows."""
_STEP = re.compile(r"step-(\d+)")


def put_in(data: dict[str, Any], runs: Sequence[Seen], room: int) -> bool:
    """Fill the `videos` of a page's runs, the last film of each first, then its first, then those between.

    Args:
        data: of the page (`report.data.page_data`).
        runs: of the page.
        room: bytes that all of them may take.

    Returns:
        Whether there is any; those for which there is no room are counted in the page's notes.
    """
    left = [0] * len(runs)
    for turn in zip_longest(*(in_order(run.folder) for run in runs)):
        for i, file in enumerate(turn):
            if file is None:
                continue
            size = file.stat().st_size * 4 // 3 + 200
            if size > room or len(data["runs"][i]["videos"]) == MOST:
                left[i] += 1
                continue
            room -= size
            data["runs"][i]["videos"].append(_drawn(file, _inside(file)))
    for run, drawn, missing in zip(runs, data["runs"], left, strict=True):
        drawn["videos"].sort(key=_by_step)
        if missing:
            data["notes"].append(left_out(missing, run))
    return any(run["videos"] for run in data["runs"]) or any(left)


def linked(files: Sequence[Path], addresses: Sequence[str]) -> list[dict[str, Any]]:
    """Films that a browser loads when it plays them: at most so many, in the order of their steps.

    Args:
        files: as `in_order` gives them.
        addresses: of each.
    """
    return sorted(map(_drawn, files[:MOST], addresses), key=_by_step)


def left_out(count: int, run: Seen) -> str:
    """A sentence about films that are not shown."""
    return (
        f"{count} more videos of {run.name} are in its folder videos: a page shows {MOST} of a run, if there is room."
    )


def in_order(folder: Path) -> Iterator[Path]:
    """Films of a run: the last, the first, and so on inwards."""
    files = sorted((folder / "videos").glob("[!.]*.mp4"))
    while files:
        yield files.pop()
        files.reverse()


def _inside(file: Path) -> str:
    return "data:video/mp4;base64," + base64.b64encode(file.read_bytes()).decode()


def _drawn(file: Path, source: str) -> dict[str, Any]:
    step = _STEP.fullmatch(file.stem)
    return {"step": int(step[1]) if step else None, "name": file.stem, "source": source}


def _by_step(video: dict[str, Any]) -> tuple[bool, int, str]:
    return video["step"] is None, video["step"] or 0, video["name"]
