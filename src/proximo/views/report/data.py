"""What the page draws, as one JSON object. The scripts beside it are its only readers."""

from collections.abc import Sequence
from datetime import datetime
from math import isfinite
from typing import Any

import numpy as np

from proximo.errors import UserError
from proximo.views import metrics_texts
from proximo.views.explain.hover import text_of_setting
from proximo.views.numbers import short, thinned
from proximo.views.report import credit, facts, findings
from proximo.views.report.histogram import ratio_map
from proximo.views.seeds import interquartile_curve
from proximo.views.seen import SEED, Seen, differing, groups_of_seeds

POINTS = 1200
"""Buckets of one metric's curves, all runs together; each has at most two points. So 10 long runs stay below 6 MB."""
FIGURES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("How the policy moves", ("approx_kl", "final_approx_kl", "exact_kl", "clip_fraction")),
    ("What is left to explore", ("entropy", "std", "clipped_actions")),
    ("The critic", ("explained_variance", "critic_error", "value_loss", "return_rms")),
    ("Steps of the optimiser", ("learning_rate", "grad_norm", "loss", "validation_loss")),
    ("Episodes", ("episode_length", "ended_by_limit")),
    ("Responses", ("judge", "kl", "kl_per_token", "response_length", "finished", "duplicates", "distinct_2")),
    ("Machine", ("memory_mb",)),
)
"""Sections and the metrics whose courses they hold."""
CURVE_POINTS = 100


def page_data(runs: Sequence[Seen], *, live: bool = False) -> dict[str, Any]:
    """The whole content of a page about some runs."""
    buckets = max(20, min(200, POINTS // max(1, len(runs))))
    figures = (*FIGURES, *_terms(runs))
    names = [name for _, metrics in figures for name in metrics]
    notes: list[str] = []
    groups = groups_of_seeds(runs)
    drawn = [_run(run, [*names, *([run.result] if run.result else [])], buckets, live) for run in runs]
    sections = [
        {"title": title, "metrics": there}
        for title, metrics in figures
        if (there := [x for x in metrics if any(x in run["series"] and x != run["result"] for run in drawn)])
    ]
    notes += _left_out(runs, drawn)
    return {
        "overview": [],
        "title": runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        "made": datetime.now().strftime("%Y-%m-%d %H:%M"),
        "live": live,
        "texts": {name: facts.text_of(name) for name in dict.fromkeys((*metrics_texts.TEXTS, *names))}
        | facts.texts_of_headlines(),
        "runs": drawn,
        "groups": [_group(runs, members, notes) for members in groups],
        "tasks": list(dict.fromkeys(run.task for run in runs)),
        "sections": sections,
        "settings": _settings(runs),
        "notes": list(dict.fromkeys(notes)),
    }


def _terms(runs: Sequence[Seen]) -> list[tuple[str, tuple[str, ...]]]:
    """The parts of the reward and the environments' logs, by the names that the runs have for them."""
    found = dict.fromkeys(name for run in runs for row in (*run.rows[:1], *run.rows[-1:]) for name in row)
    kinds = (("Parts of the reward", "term/"), ("The environments' own log", "log/"))
    return [(title, tuple(sorted(name for name in found if name.startswith(start)))) for title, start in kinds]


def _run(run: Seen, names: Sequence[str], buckets: int, live: bool) -> dict[str, Any]:
    steps = [int(row["step"]) for row in run.rows]
    series = {}
    for name in dict.fromkeys(names):
        column = facts.column(run, name)
        if any(value is not None for value in column):
            x, y = thinned(steps, column, buckets)
            # The entropy of a density says nothing by its sign; the health rules look at the deviation instead.
            judged = name != "entropy" or not any(value is not None for value in facts.column(run, "std"))
            series[name] = {"x": x, "y": y, "band": facts.band_of(name, column) if judged else None}
    return {
        "name": run.name,
        "folder": str(run.folder),
        "state": run.state,
        "error": run.error,
        "kind": run.kind,
        "unit": run.unit,
        "task": run.task,
        "seed": run.settings.get(SEED),
        "result": run.result,
        "headline": facts.headline(run),
        "series": series,
        "ratio": ratio_map(run, buckets),
        "phases": facts.phases(run),
        "health": findings.strip(run, buckets),
        "findings": findings.recorded(run) if live else findings.diagnosed(run),
        "samples": facts.samples(run, max(6, buckets // 5)),
        "videos": [],  # of a page that is written: `videos.put_in`; of one that is served: `watch.details`
        "credit": None if live else credit.tokens(run),  # of one that is served: the same
    }


def _left_out(runs: Sequence[Seen], drawn: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence for each figure that is not there, or not of all runs."""
    notes = []
    for title, key in (("The ratio's histogram", "ratio"), ("Time per phase", "phases"), ("Health", "health")):
        without = [run["name"] for run in drawn if not run[key]]
        if without:
            of = "" if len(without) == len(runs) else f" of {', '.join(without)}"
            notes.append(f"{title}{of} is left out: not recorded (an older run, or another kind of training).")
    empty = [run.name for run in runs if not run.rows]
    if empty:
        notes.append(f"No iteration has ended yet in {', '.join(empty)}.")
    return notes


def _settings(runs: Sequence[Seen]) -> list[dict[str, Any]]:
    """Every setting with its value in each run; those that differ first."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    different = differing(runs)
    ordered = [*different, *(key for key in keys if key not in different)]
    return [
        {
            "key": key,
            "values": [_shown(run.settings.get(key)) for run in runs],
            "differs": key in different,
            "text": text_of_setting(key, frozenset(run.kind for run in runs if key in run.settings)),
        }
        for key in ordered
    ]


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return short(value) if isfinite(value) else str(value)
    return str(value)


def _group(runs: Sequence[Seen], members: Sequence[int], notes: list[str]) -> dict[str, Any]:
    """Runs that differ in their seed alone, and their interquartile curve where there are at least two."""
    group: dict[str, Any] = {"runs": list(members), "curve": None}
    seeds = {str(runs[i].settings.get(SEED)): i for i in members if runs[i].result}  # the last run of each seed
    if len(seeds) < len(members) > 1:
        alike = ", ".join(runs[i].name for i in members)
        notes.append(f"Some of {alike} have the same seed, or no result yet: their mean counts each seed once.")
    known = [runs[i].course(str(runs[i].result)) for i in seeds.values()]
    if len(known) < 2:
        return group
    low, high = max(x[0] for x, _ in known), min(x[-1] for x, _ in known)
    if low >= high:
        notes.append("Seeds of one experiment have no steps in common yet, so there is no interquartile mean of them.")
        return group
    grid = np.linspace(low, high, CURVE_POINTS)
    scores = np.array([np.interp(grid, x, y) for x, y in known])
    try:
        lines = interquartile_curve(scores)
    except UserError as error:
        notes.append(f"{error}.")
        return group
    names = ("y", "low", "high")
    lists = {name: [float(f"{v:.5g}") for v in line] for name, line in zip(names, lines, strict=True)}
    return group | {"curve": {"runs": list(seeds.values()), "x": [round(float(x)) for x in grid], **lists}}
