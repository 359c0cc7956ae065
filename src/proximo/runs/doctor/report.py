"""From a run to a diagnosis, and the screen that shows it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from proximo.runs.doctor import critic, invariants, resources, step
from proximo.runs.doctor.diagnosis import Diagnosis
from proximo.runs.doctor.record import Kind, Record, read_record
from proximo.runs.doctor.story import colours, went_well

_RULES = (
    invariants.meter,
    step.no_clip,
    step.epochs,
    step.too_large,
    step.too_small,
    step.tiny_clip,
    step.fell_off,
    critic.critic,
    resources.memory_grows,
)
SHOWN = 5  # diagnoses that fit a screen; JSON has all


@dataclass(frozen=True)
class Report:
    """The doctor's report on a run."""

    run: str
    iterations: int
    steps: int
    diagnoses: tuple[Diagnosis, ...]
    """The worst first."""
    good: tuple[str, ...]
    colours: dict[str, int]

    @property
    def health(self) -> str:
        """The colour of the worst diagnosis."""
        return self.diagnoses[0].finding.severity if self.diagnoses else "green"

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "run": self.run,
            "health": self.health,
            "iterations": self.iterations,
            "steps": self.steps,
            "findings": [diagnosis.plain() for diagnosis in self.diagnoses],
            "went_well": list(self.good),
            "iterations_by_health": self.colours,
        }

    def __str__(self) -> str:
        """One screen, the worst first."""
        return format_report(self)


def diagnose(run: Record) -> tuple[Diagnosis, ...]:
    """All that is wrong with a run, the worst first."""
    found = list(invariants.stopped(run))
    if run.rows:
        for rule in (*_RULES, *run.kind.rules):
            found += rule(run)
    return tuple(_each_option_once(_each_code_once(sorted(found, key=lambda diagnosis: diagnosis.finding.rank))))


def _each_code_once(found: list[Diagnosis]) -> list[Diagnosis]:
    """Two rules may come to the same finding; the worse one is told."""
    seen: dict[str, Diagnosis] = {}
    for diagnosis in found:
        seen.setdefault(diagnosis.finding.code.number, diagnosis)
    return list(seen.values())


def _each_option_once(found: list[Diagnosis]) -> Iterator[Diagnosis]:
    """The worst finding has the say about a setting: one screen must not propose two values for it."""
    proposed: set[str] = set()
    for diagnosis in found:
        changes = tuple(change for change in diagnosis.changes if change.option not in proposed)
        proposed |= {change.option for change in changes}
        yield replace(diagnosis, changes=changes)


def examine_run(folder: Path, kinds: Mapping[str, Kind]) -> Report:
    """The doctor's report on a run's folder.

    Raises:
        UserError: it holds no run, or a file is damaged.
    """
    run = read_record(folder, kinds)
    return Report(str(folder), len(run.rows), run.steps, diagnose(run), tuple(went_well(run)), colours(run))


def format_report(report: Report) -> str:
    """One screen, the worst first."""
    counts = ", ".join(f"{n} {colour}" for colour, n in report.colours.items() if n)
    far = f"{report.iterations} iterations, {report.steps:,} steps ({counts})" if counts else "no iteration ended"
    lines = [f"{report.health}  {report.run}: {far}"]
    for diagnosis in report.diagnoses[:SHOWN]:
        finding = diagnosis.finding
        lines += ["", f"{finding.severity} {finding.code.label}: {finding.code.cause}", f"  seen    {finding.evidence}"]
        changes = [str(change) for change in diagnosis.changes] or [finding.code.remedy]
        lines += [f"  {'change' if i == 0 else '':<6}  {text}" for i, text in enumerate(changes)]
        lines.append(f"  more    {finding.code.more}")
    if len(report.diagnoses) > SHOWN:
        lines += ["", f"and {len(report.diagnoses) - SHOWN} more; --json lists all"]
    if report.good:
        lines += ["", "went well"] + [f"  {sentence}" for sentence in report.good]
    return "\n".join(lines)
