"""The verbs that show a run, or what its words mean: each is a function of `proximo.views`."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command
from proximo.errors import UserError

Runs = tyro.conf.Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]]


@dataclass(frozen=True)
class Report:
    """Draw one or more runs as one HTML page: learning curves, health, time, settings, texts.

    The page needs no network, and may be made while a run goes on. Runs with the same settings but the seed are also
    shown as one.
    """

    runs: Runs
    """Folders of runs, or of all seeds of `proximo train --seeds`, or that of one search of `proximo tune`."""
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


@dataclass(frozen=True)
class Watch:
    """Show runs in a browser on this machine while they go on, until Ctrl-C."""

    where: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="RUN|FOLDER")]]
    """Folder of a run, or one with runs below it, which are all listed."""
    port: int = 6070
    """Port of the page; the next free one if it is taken."""

    def __call__(self) -> int:
        """Serve until Ctrl-C."""
        from proximo.views.watch import watch

        watch(self.where, port=self.port)
        return 0


SIDES = "\0"
"""Stands for the `--` between two sides, which the parser would take away."""


@dataclass(frozen=True)
class Compare:
    """Compare two settings by their runs, A -- B: which is better, by how much, and are the seeds enough to tell?

    The runs of a side differ in their seed alone. Interquartile means and probability of improvement with bootstrap
    intervals (rliable, in the extra lab), and the settings in which the sides differ.
    """

    runs: tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="RUN [RUN ...] -- RUN [RUN ...]")]]
    """Folders of the runs of A, or of all seeds of `proximo train --seeds`, two dashes, those of B."""
    metric: Annotated[str | None, SAYS_ITS_DEFAULT] = None
    """Metric to compare by (default: return of robots, score of language models)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print what `compare` finds."""
        from proximo.views.compare import compare

        if self.runs.count(SIDES) != 1:
            raise UserError("give two sides with -- between them: proximo compare RUN [RUN ...] -- RUN [RUN ...]")
        middle = self.runs.index(SIDES)
        found = compare(self.runs[:middle], self.runs[middle + 1 :], metric=self.metric)
        print(json.dumps(found.plain()) if self.json else found)
        return 0


def _compare(arguments: list[str]) -> int:
    return command(Compare, "compare")([SIDES if word == "--" else word for word in arguments])


@dataclass(frozen=True)
class Explain:
    """Say what a setting, metric or finding is: formula, paper's value, presets, and what goes wrong with it.

    Without a name, all names are listed.
    """

    name: tyro.conf.Positional[Annotated[str | None, tyro.conf.arg(metavar="[NAME]", help_behavior_hint="")]] = None
    """As `update.clip` or clip, `approx_kl`, P020 or step-too-large."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print what `explain` finds."""
        from proximo.views.explain.explain import explain

        found = explain(self.name)
        print(json.dumps(found.plain()) if self.json else found)
        return 0


def _explain(arguments: list[str]) -> int:
    """A setting may be named as the option that it is on other command lines: `--update.clip`."""
    own = {"--json", "--help"}
    return command(Explain, "explain")([word if word in own else word.removeprefix("--") for word in arguments])


@dataclass(frozen=True)
class Inspect:
    """Show what a run learns from, token by token (language) or step by step over an episode (control).

    Of tokens: advantage, KL and value, on colours in a terminal, as a table where piped; and the reward taken apart. Of
    an episode: a page with a film strip, reward, value, return, TD error, advantage and ratio.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    iteration: tyro.conf.Positional[Annotated[int | None, SAYS_ITS_DEFAULT]] = None
    """Iteration of a language run, counted from 0 (default: the last that is recorded)."""
    by: Annotated[Literal["advantage", "kl", "value"] | None, SAYS_ITS_DEFAULT] = None
    """What colours the tokens (default: advantage)."""
    worst: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """How many responses are shown, the lowest score first (default: 5)."""
    against: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Another iteration: which tokens became likelier since, and responses to the same prompts side by side."""
    policy: Annotated[Literal["latest", "best"] | None, SAYS_ITS_DEFAULT] = None
    """Whose episode it is, of a control run (default: latest)."""
    seed: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Seed of the episode (default: one that training never saw)."""
    limit: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Steps after which the episode is cut (default: 1000)."""
    out: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Page to write of the episode (default: RUN/inspect/SEED.html)."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print what `inspect_run` finds."""
        from proximo.views.inspect import inspect_run

        names = ("by", "worst", "against", "policy", "seed", "limit", "out")
        given: dict[str, Any] = {name: getattr(self, name) for name in names}
        found = inspect_run(self.run, self.iteration, **given)
        if self.json:
            print(json.dumps(found.plain()))
        else:
            found.print()
        return 0


VERBS: Mapping[str, Callable[[list[str]], int]] = {
    "report": command(Report, "report"),
    "watch": command(Watch, "watch"),
    "inspect": command(Inspect, "inspect"),
    "compare": _compare,
    "explain": _explain,
}
