"""The verbs that show a run: each is a function of `proximo.views`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command

Runs = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]]


@dataclass(frozen=True)
class Report:
    """Draw one or more runs as one HTML page: learning curves, health, time, settings, texts.

    The page needs no network, and may be made while a run goes on. Runs with the same settings but the seed are also
    shown as one.
    """

    runs: Runs
    """Folders of runs."""
    out: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """File to write (default: report.html, in the folder of the run if it is one, else in the current folder)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Write the page and say where it is."""
        from proximo.views.report import report

        file = report(self.runs, out=self.out)
        print(json.dumps({"report": str(file)}) if self.json else f"the report is in {file}: open it in a browser")
        return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {"report": command(Report, "report")}
