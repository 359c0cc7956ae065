"""What is wrong with a run: the truth meter's strip, and findings with what to change."""

from typing import Any

from proximo import inspection
from proximo.errors import UserError
from proximo.runs.health import CODES, colours
from proximo.views.seen import Seen

COLOURS = ("green", "amber", "red")


def strip(run: Seen, most: int) -> dict[str, list[int]] | None:
    """Steps and colours (0 green, 1 amber, 2 red) of the run's iterations; None where none is recorded.

    Args:
        run: any.
        most: cells of the strip, each of the worst colour of its iterations.
    """
    known = [(int(row["step"]), COLOURS.index(row["health"])) for row in run.rows if row.get("health") in COLOURS]
    if not known:
        return None
    cells = min(most, len(known))
    parts = [known[i * len(known) // cells : (i + 1) * len(known) // cells] for i in range(cells)]
    return {"x": [part[-1][0] for part in parts], "colour": [max(colour for _, colour in part) for part in parts]}


def diagnosed(run: Seen) -> list[dict[str, Any]]:
    """The doctor's findings over the whole run; the truth meter's where it has nothing to go by."""
    try:
        report = inspection.diagnose(run.folder)
    except UserError:  # another kind of training, or no iteration yet
        return recorded(run)
    return [
        _finding(
            diagnosis.finding.severity,
            diagnosis.finding.code.number,
            diagnosis.finding.evidence,
            "; ".join(map(str, getattr(diagnosis, "changes", ()))),
        )
        for diagnosis in getattr(report, "diagnoses", ())
    ]


def recorded(run: Seen) -> list[dict[str, Any]]:
    """The truth meter's findings as the rows hold them, the most frequent first."""
    seen: dict[str, list[int]] = {}
    worst: dict[str, str] = {}
    for i, row in enumerate(run.rows):
        for number, colour in colours(row).items():
            seen.setdefault(number, []).append(i)
            worst[number] = "red" if colour == "red" else worst.get(number, "amber")
    ordered = sorted(seen.items(), key=lambda item: -len(item[1]))
    return [
        _finding(worst[number], number, f"in {len(rows)} of {len(run.rows)} iterations, first in number {rows[0]}")
        for number, rows in ordered
        if number in CODES
    ]


def _finding(severity: str, number: str, evidence: str, change: str = "") -> dict[str, Any]:
    code = CODES[number]
    return {
        "severity": severity,
        "label": code.label,
        "cause": code.cause,
        "evidence": evidence,
        "change": change or code.remedy,
        "more": code.more,
    }
