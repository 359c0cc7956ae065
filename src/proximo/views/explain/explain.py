"""`proximo explain`: one name, and all that it stands for."""

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from proximo.errors import UserError, nearest
from proximo.foreign_options import CONTROL, LANGUAGE
from proximo.runs.health.codes import CODES, Code
from proximo.runs.health.reads import READS, read_by
from proximo.views.explain.advice import findings_on
from proximo.views.explain.settings import TABLE, Place, Setting, settings
from proximo.views.metrics_others import FAMILIES, OTHERS, text_of_metric
from proximo.views.metrics_texts import TEXTS, Band, MetricText

WIDEST = 100
"""Columns of text, in a wider terminal too."""


@dataclass(frozen=True)
class Explanation:
    """All that a name stands for. `print` shows it."""

    name: str
    settings: tuple[Setting, ...]
    metric: MetricText | None
    findings: tuple[Code, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "settings": [_plain_setting(setting) for setting in self.settings],
            "metric": None if self.metric is None else _plain_metric(self.name, self.metric),
            "findings": [_plain_finding(code) for code in self.findings],
        }

    def __str__(self) -> str:
        """One part for each thing of that name."""
        parts = [_shown_setting(setting) for setting in self.settings]
        parts += [] if self.metric is None else [_shown_metric(self.name, self.metric)]
        parts += [code.text.rstrip() for code in self.findings]
        return "\n\n".join(parts)


@dataclass(frozen=True)
class Names:
    """All names that can be explained. `print` shows them."""

    settings: tuple[str, ...]
    metrics: tuple[str, ...]
    findings: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {kind: list(names) for kind, names in vars(self).items()}

    def __str__(self) -> str:
        """By kind."""
        return "\n\n".join(f"{kind}\n{_filled(', '.join(names))}" for kind, names in vars(self).items())


def explain(name: str | None = None) -> Explanation | Names:
    """Say what a setting, a metric or a finding is: text, formula, paper's value, presets, and what goes wrong with it.

    Args:
        name: of a setting (`update.clip`, `clip`, `--update.target-kl`), a metric (`approx_kl`) or a finding (`P020`,
            `step-too-large`). None lists all names.

    Returns:
        What `print` shows; `plain()` is the same for JSON.

    Raises:
        UserError: nothing is called so; it names the nearest.
    """
    if name is None:
        metrics = (*TEXTS, *OTHERS, *(f"{start}NAME" for start in FAMILIES))
        return Names(tuple(settings()), metrics, tuple(code.label for code in CODES.values()))
    asked = str(name).strip()
    wanted = asked.lstrip("-").replace("-", "_")
    found = tuple(setting for key, setting in settings().items() if key == wanted or key.rpartition(".")[2] == wanted)
    codes = tuple(code for code in CODES.values() if asked.lower() in _names_of(code))
    metric = text_of_metric(asked) or text_of_metric(wanted)
    if not (found or codes or metric):
        raise UserError(_unknown(asked, wanted))
    return Explanation(asked if metric is None or text_of_metric(asked) else wanted, found, metric, codes)


def _names_of(code: Code) -> tuple[str, ...]:
    number = code.number.lower()
    return number, code.slug, f"{number}-{code.slug}", f"{number} {code.slug}"


def _unknown(asked: str, wanted: str) -> str:
    names = {*settings(), *(name.rpartition(".")[2] for name in settings()), *TEXTS, *OTHERS, *CODES}
    names |= {code.slug for code in CODES.values()}
    alike = nearest(asked, names) or nearest(wanted, names)
    hint = _elsewhere(wanted) or (f"did you mean {alike}?" if alike else "`proximo explain` lists all names")
    return f"no setting, metric or finding is called {asked!r}: {hint}"


def _elsewhere(name: str) -> str:
    """What another library's option of that name is here; "" if none has one."""
    for table in (CONTROL, *LANGUAGE.values()):
        if answer := table.get(re.sub(r"[._]", "-", name).lower()):
            return answer.partition("nothing: ")[2] or f"here it is {answer}"
    return ""


def facts_of_setting(setting: Setting) -> dict[str, list[str]]:
    """What there is to say of a setting beside its texts, by label."""
    if setting.places[0].kind == TABLE:
        return {"settings": [", ".join(name for name in settings() if name.startswith(f"{setting.name}."))]}
    formula = setting.formula
    facts = {
        "type": list(dict.fromkeys(place.kind for place in setting.places)),
        "default": _grouped((_value(place.default), place.verb) for place in setting.places),
        "formula": [] if formula is None else [formula.text, f"({formula.source})"],
        "paper": _grouped((_value(use.value), f"{use.preset}: {use.source}") for use in setting.paper),
        "presets": _grouped((_value(use.value), use.preset) for use in setting.changed),
        "helps with": [f"{code.label}: {code.cause}" for code in findings_on(setting.name)],
    }
    return {label: texts for label, texts in facts.items() if texts}


def _shown_setting(setting: Setting) -> str:
    lines = [f"setting {setting.name}", *map(_filled, texts_of(setting.places))]
    return "\n".join([*lines, *_entries(facts_of_setting(setting))])


def texts_of(places: Iterable[Place]) -> Iterator[str]:
    """The docstrings; where verbs have different ones, each with its verbs."""
    grouped: dict[str, list[str]] = {}
    for place in places:
        if place.text:
            grouped.setdefault(place.text, []).append(place.verb)
    for text, verbs in grouped.items():
        yield text if len(grouped) == 1 else f"{text} [{'; '.join(dict.fromkeys(verbs))}]"


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """`0.2 (train; rlhf ppo)` for each value."""
    found: dict[str, list[str]] = {}
    for value, where in pairs:
        found.setdefault(value, []).append(where)
    return [f"{value} ({'; '.join(dict.fromkeys(places))})" for value, places in found.items()]


def facts_of_metric(name: str, text: MetricText) -> dict[str, list[str]]:
    """Where a metric is healthy, and which findings read it, by label."""
    facts = {
        "healthy": [_healthy(text.band)] if text.band else [],
        "read by": [f"{CODES[number].label}: {CODES[number].cause}" for number in read_by(name)],
    }
    return {label: texts for label, texts in facts.items() if texts}


def _shown_metric(name: str, text: MetricText) -> str:
    lines = [f"metric {name}: {text.label} ({text.unit})", _filled(text.sentence)]
    return "\n".join([*lines, *_entries(facts_of_metric(name, text))])


def _healthy(band: Band) -> str:
    """`at most 0.1, red above 1`."""
    of = " of its first value" if band.share_of_first else ""
    said = [
        f"{word} {limit:g}{of}" for word, limit in (("at least", band.low), ("at most", band.high)) if abs(limit) < inf
    ]
    return ", ".join([*said, *([f"red above {band.red:g}{of}"] if band.red < inf else [])])


def _entries(facts: Mapping[str, list[str]]) -> Iterator[str]:
    """Lines beside their labels."""
    for label, texts in facts.items():
        for i, text in enumerate(texts):
            yield _filled(text, " " * 14 if i else f"  {label:<12}", " " * 14)


def _filled(text: str, first: str = "  ", others: str = "  ") -> str:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _value(value: Any) -> str:
    if value is None or value == "":
        return "none" if value is None else "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "empty"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:g}"
    return str(value) if value else "empty"


def _plain_setting(setting: Setting) -> dict[str, Any]:
    formula = setting.formula
    return {
        "name": setting.name,
        "places": [vars(place) for place in setting.places],
        "formula": None if formula is None else vars(formula),
        "paper": [vars(use) for use in setting.paper],
        "presets": [vars(use) for use in setting.changed],
        "findings": [code.number for code in findings_on(setting.name)],
    }


def _plain_metric(name: str, text: MetricText) -> dict[str, Any]:
    healthy = _healthy(text.band) if text.band else None
    told = {"name": name, "label": text.label, "unit": text.unit, "sentence": text.sentence, "healthy": healthy}
    return told | {"findings": read_by(name)}


def _plain_finding(code: Code) -> dict[str, Any]:
    told = {"code": code.number, "slug": code.slug, "cause": code.cause, "remedy": code.remedy}
    return told | {"metrics": list(READS.get(code.number, ())), "page": code.text}
