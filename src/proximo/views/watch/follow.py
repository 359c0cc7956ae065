"""Runs below a folder as they are now, read again only where they have grown."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

from proximo.errors import UserError
from proximo.runs.storage.files import parse_json
from proximo.views.explain.hover import text_of_setting
from proximo.views.metrics_texts import TEXTS
from proximo.views.numbers import short, thinned
from proximo.views.report.data import page_data
from proximo.views.seeds import import_statistics
from proximo.views.seen import Seen, is_running, read_run, short_names
from proximo.views.visible import visible
from proximo.views.watch.details import AWAY, DETAILS, Details, leads_out

DEPTH = 4
"""Folders below the given one in which runs are looked for."""
SHOWN = 6
"""Runs whose figures are drawn where nobody has chosen: those that were written to last."""
MOST = 20
"""Runs whose figures are drawn at once."""
PAUSE, LONGEST_PAUSE, BUSY = 2.0, 10.0, 0.01
"""Least and most seconds between two looks, and the share of one core that looking takes where the most allows it."""
_NEEDED = ("config.toml", "metrics.jsonl", "results.json", "samples.jsonl", "lock")
_FILES = (*_NEEDED, *DETAILS)


class Tail:
    """Rows of one `metrics.jsonl`; only what was appended since is read again."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._inode, self._offset = 0, 0
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> list[dict[str, Any]]:
        """All rows so far. A last line without its end is not read yet; a resumed run's file begins anew."""
        try:
            with open(self._file, "rb") as file:
                status = os.fstat(file.fileno())
                if status.st_ino != self._inode or status.st_size < self._offset:
                    self._inode, self._offset, self._rows = status.st_ino, 0, []
                file.seek(self._offset)
                whole, newline, _ = file.read().rpartition(b"\n")
        except OSError:
            return []
        self._offset += len(whole) + len(newline)
        self._rows += [row for line in whole.split(b"\n") if (row := _row(line)) is not None]
        return self._rows


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None


class Follower:
    """The runs in a folder, by names that are given here: what a browser asks for is looked up, and is never a path.

    Args:
        root: folder of a run, or one with runs below it.

    Raises:
        UserError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(f"there is no folder {root}: give that of a run, or one with runs in it")
        self._root = root.resolve()
        self._tails: dict[Path, Tail] = {}
        self._details = Details(self._root)
        self._lock = Lock()
        self._looked, self._look_cost = -inf, 0.0
        self._made, self._made_cost = -inf, 0.0
        import_statistics()  # takes a second, and torch for the settings' texts some: no cost of a look or of a page
        text_of_setting("seed", frozenset())
        self._stamp: tuple[Any, ...] = ()
        self._drawn: set[Path] = set()
        self.version = 0
        """Rises with each change that was seen."""

    def look(self) -> int:
        """The version, after a look at the files if the last one is long enough ago."""
        with self._lock:
            now = time.monotonic()
            if now - self._looked < _pause(self._look_cost) or now - self._made < _pause(self._made_cost):
                return self.version
            began = time.process_time()
            folders, left_out = self._found()
            stamp = tuple((folder, is_running(folder), *map(_stamp, _files(folder))) for folder in folders), left_out
            self.version += stamp != self._stamp
            self._looked, self._stamp = time.monotonic(), stamp
            self._look_cost = time.process_time() - began
            return self.version

    def data(self, chosen: Sequence[str] = ()) -> dict[str, Any]:
        """What the page shows.

        Args:
            chosen: names of the runs whose figures are drawn; those that were written to last if empty.

        Raises:
            KeyError: there is no run of that name.
        """
        with self._lock:
            began = time.process_time()
            runs, left_out = self._runs()
            by_name = {run.name: run for run in runs}
            latest = self._latest(runs)
            drawn = [by_name[name] for name in chosen[:MOST]] if chosen else [x for x in runs if x.folder in latest]
            page = page_data(drawn, live=True)
            self._details.put_in(page, drawn)
            page["notes"] += left_out
            page |= {"title": visible(self._root.name), "overview": [_overview(run, run in drawn) for run in runs]}
            self._made, self._made_cost = time.monotonic(), time.process_time() - began
            return page

    def _latest(self, runs: Sequence[Seen]) -> set[Path]:
        """Folders of the runs that were written to last; those that were among them stay so while they go on.

        Else of more runs that go on at once others would be drawn at each look.
        """
        going = {run.folder for run in runs if run.state == "running"} & self._drawn
        ordered = sorted(
            (run.folder for run in runs), key=lambda folder: (folder not in going, -_stamp(folder / "metrics.jsonl")[0])
        )
        self._drawn = set(ordered[:SHOWN])
        return self._drawn

    def film(self, run: str, name: str) -> Path:
        """A film that the last page has named, by the names of its run and of its file.

        Raises:
            KeyError: it has named none so.
        """
        with self._lock:
            return self._details.film(run, name)

    def _runs(self) -> tuple[list[Seen], list[str]]:
        """Runs, and a sentence for each that is not shown."""
        folders, left_out = self._found()
        names = short_names(folders)
        self._tails = {folder: self._tails.get(folder) or Tail(folder / "metrics.jsonl") for folder in folders}
        found = []
        for folder, name in zip(folders, names, strict=True):
            try:
                found.append(read_run(folder, name, list(self._tails[folder].rows())))
            except UserError:
                if (folder / "config.toml").is_file():  # else it has just been deleted
                    left_out.append(f"{self._named(folder)} is not shown: its config.toml is damaged.")
        return found, left_out

    def _found(self) -> tuple[list[Path], list[str]]:
        """Folders of runs, none by way of a link that leads out of the root; a sentence for each that is left out."""
        folders, left_out = [], []
        for place, below, files in os.walk(self._root):
            folder = Path(place)
            if "config.toml" in files:
                away = [name for name in _NEEDED if leads_out(folder / name, self._root)]
                if away:
                    left_out.append(f"{self._named(folder)} is not shown: its {away[0]} is {AWAY}.")
                else:
                    folders.append(folder)
                below.clear()
            elif len(folder.relative_to(self._root).parts) >= DEPTH:
                below.clear()
            links = [name for name in below if (folder / name).is_symlink()]
            away = [name for name in links if leads_out(folder / name, self._root) and _is_run(folder / name)]
            left_out += [f"{self._named(folder / name)} is not shown: it is {AWAY}." for name in sorted(away)]
            below[:] = sorted((x for x in below if not x.startswith(".") and x not in links), key=_in_order)
        return folders, left_out

    def _named(self, folder: Path) -> str:
        return visible(folder.relative_to(self._root).as_posix() if folder != self._root else folder.name)


def _in_order(name: str) -> list[tuple[str, int]]:
    """By which `seed-2` stands before `seed-10`."""
    return [(words, int(digits or 0)) for words, digits in re.findall(r"(\D*)(\d*)", name, re.ASCII)]


def _pause(cost: float) -> float:
    """Seconds until what took so many seconds of the processor is done again."""
    return min(max(PAUSE, cost / BUSY), LONGEST_PAUSE)


def _files(folder: Path) -> list[Path]:
    return [folder / name for name in _FILES]


def _is_run(folder: Path) -> bool:
    try:
        return (folder / "config.toml").is_file()
    except OSError:  # it may not be looked into
        return False


def _stamp(file: Path) -> tuple[int, int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino


def _overview(run: Seen, drawn: bool) -> dict[str, Any]:
    """One run's line in the table of all."""
    values: Sequence[float | None] = run.column(run.result) if run.result else []
    last: Mapping[str, Any] = run.rows[-1] if run.rows else {}
    text = TEXTS.get(run.result or "")
    return {
        "name": run.name,
        "drawn": drawn,
        "state": f"{run.state}: {run.error}" if run.error else run.state,
        "steps": short(last.get("step")),
        "result": f"{text.label} {short(next((v for v in reversed(values) if v is not None), None))}" if text else "-",
        "health": str(last.get("health") or "-"),
        "spark": [y for y in thinned(range(len(values)), values, 40)[1] if y is not None],
    }
