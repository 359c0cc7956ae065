"""From runs to one HTML file."""

import os
from collections.abc import Iterable
from pathlib import Path

from proximo.runs.storage.files import make_parents, require_no_folder, write_atomically
from proximo.views.report import study, videos
from proximo.views.report.data import page_data
from proximo.views.report.page import html
from proximo.views.seen import read_runs

FILE = "report.html"
LARGEST = 6_000_000
"""Bytes of a page with videos."""


def report(
    runs: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], *, out: str | os.PathLike[str] | None = None
) -> Path:
    """Write one self-contained HTML page that shows runs, made from what they have recorded so far.

    Several runs with the same settings but the seed are also shown as one: interquartile mean with a bootstrap interval
    (needs the extra `lab`). The runs are only read; they may be going on.

    Args:
        runs: folder of a run, or several; of language runs also the folder of all stages, of several seeds theirs. Or
            that of one search of `proximo.tune`: the page then shows what its trials came to, which settings mattered,
            and the best runs.
        out: file to write; None takes `report.html`, in the folder if one is given, else in the current one.

    Returns:
        The file.

    Raises:
        UserError: there is no such run, it is damaged, or the file can not be written.
    """
    folders = [Path(folder) for folder in ([runs] if isinstance(runs, str | os.PathLike) else runs)]
    searched = len(folders) == 1 and study.is_study(folders[0])
    seen = study.best_runs(folders[0]) if searched else read_runs(folders)
    where = folders[0] if searched else seen[0].folder if len(seen) == 1 else Path()
    file = where / FILE if out is None else Path(out)
    require_no_folder(file, FILE)
    data = page_data(seen)
    if searched:
        study.put_in(data, folders[0])
    page = html(data).encode("utf-8")
    if videos.put_in(data, seen, LARGEST - len(page)):
        page = html(data).encode("utf-8")
    make_parents(file)
    write_atomically(file, page)
    return file
