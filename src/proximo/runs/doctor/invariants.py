"""Findings of the truth meter over the whole run."""

from collections.abc import Iterator, Mapping
from typing import Any

from proximo.runs.doctor.diagnosis import Change, Diagnosis, change
from proximo.runs.doctor.record import Record
from proximo.runs.health import Finding, verdict_on_error

_ONCE = frozenset({"P010", "P011", "P013", "P014", "P015", "P016"})
"""Findings that must not happen once; the others need a quarter of the iterations."""
_SEEN_WHOLE = frozenset({"P020", "P025", "P030", "P045", "P052", "P053", "P054", "P064"})
"""Findings that the doctor judges from the whole run instead."""


def stopped(run: Record) -> Iterator[Diagnosis]:
    """An invariant ended the run."""
    if run.error is not None:
        for finding in verdict_on_error(RuntimeError(str(run.error["error"]))).findings:
            yield Diagnosis(finding, iteration=len(run.rows))


def meter(run: Record) -> Iterator[Diagnosis]:
    """The worst of what was found under each code, if it was found often enough."""
    seen: dict[str, list[tuple[int, Finding]]] = {}
    for i, verdict in enumerate(run.verdicts):
        for finding in verdict.findings:
            seen.setdefault(finding.code.number, []).append((i, finding))
    for number, found in seen.items():
        often = len(found) >= 0.25 * len(run.rows)
        once = any(_proves(number, run.rows[i]) for i, _ in found)
        if number in _SEEN_WHOLE or not (often or once):
            continue
        reds = sum(finding.severity == "red" for _, finding in found)
        # An amber habit with one red outlier is amber, but for what must not happen at all.
        worst = "red" if reds and (once or 2 * reds > len(found)) else "amber"
        iteration, finding = next((i, finding) for i, finding in found if finding.severity == worst)
        share = f"; {len(found)} of {len(run.rows)} iterations"
        yield Diagnosis(
            Finding(finding.code, finding.severity, finding.evidence + share), _changes(number, run), iteration
        )


def _proves(code: str, row: Mapping[str, Any]) -> bool:
    """True if one iteration is enough: a lost final observation is, one that equals the next start may be chance."""
    return code in _ONCE and (code != "P014" or bool(row.get("truncations_missed")))


def _changes(code: str, run: Record) -> tuple[Change, ...]:
    """Settings, where one helps; else the code's remedy is all there is to say."""
    if code == "P031" and (scaling := run.kind.reward_scaling) is not None:
        return (change(scaling, run.setting(scaling), "scale"),)
    if code == "P040":
        return (change("normalizers.observations", run.setting("normalizers.observations"), "True"),)
    if code == "P016":
        return (change("temperature", run.setting("temperature"), 1.0), Change("sample without top-k and top-p"))
    if code == "P051":
        now = run.amount("kl.coefficient")
        return (change("kl.coefficient", now, max(0.05, 2 * now)),)
    return ()
