"""The truth meter: green, amber or red for each iteration, with the worst cause named."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from proximo.runs.health.codes import BY_SLUG, Finding
from proximo.runs.health.history import History, number
from proximo.runs.health.returns import Course
from proximo.runs.health.rules import RULES

Health = Literal["green", "amber", "red"]


@dataclass(frozen=True)
class Verdict:
    """Findings of one iteration, the worst first."""

    findings: tuple[Finding, ...] = ()

    @property
    def health(self) -> Health:
        """The colour of the worst finding."""
        return self.findings[0].severity if self.findings else "green"

    @property
    def line(self) -> str:
        """`green`, or `red P012 ratio-not-one`."""
        return f"{self.health} {self.findings[0].code.label}" if self.findings else self.health

    @property
    def row(self) -> dict[str, str]:
        """Values for `metrics.jsonl`, as `colours` reads them."""
        return {"health": self.health, "findings": "; ".join(map(self._told, self.findings))}

    def _told(self, finding: Finding) -> str:
        return finding.code.label + (f" ({finding.severity})" if finding.severity != self.health else "")


def colours(row: Mapping[str, Any]) -> dict[str, str]:
    """Numbers and severities of the findings in a row of `metrics.jsonl`: a milder one has its own behind its name."""
    told = list(filter(None, str(row.get("findings") or "").split("; ")))
    return {label.split(" ")[0]: "amber" if label.endswith(" (amber)") else str(row.get("health")) for label in told}


class TruthMeter:
    """Judges the iterations of a run, one after the other.

    Args:
        environments: copies of the task.
        steps: of the whole run; 0 where nothing is known of it: then nothing is said of what it has learnt.
    """

    def __init__(self, environments: float = 0.0, steps: float = 0.0) -> None:
        self._history, self._course = History(), Course(environments, steps)
        self._steps, self._due = steps, 0.0
        self._told: dict[str, str] = {}

    def judge(self, row: Mapping[str, Any]) -> Verdict:
        """The verdict on one iteration's metrics."""
        if self._steps > 0 and "ended" in row:
            self._course.add(row)
            if (step := number(row.get("step")) or 0.0) >= min(self._due, self._steps):  # every twentieth, and the end
                self._due, self._history.learning = step + 0.05 * self._steps, self._course.learning()
        findings = [finding for rule in RULES for finding in rule(row, self._history)]
        self._history.add(row)
        return Verdict(tuple(sorted(findings, key=lambda finding: finding.rank)))

    def recall(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Take in the rows of a resumed run, as if it had judged them: what was told then is not told again."""
        for row in rows:
            self.news(self.judge(row))

    def news(self, verdict: Verdict) -> list[str]:
        """A sentence for each finding that has not been told yet, or not as red."""
        sentences = []
        for finding in verdict.findings:
            code, severity = finding.code, finding.severity
            if self._told.get(code.number) not in (severity, "red"):
                self._told[code.number] = severity
                sentences.append(
                    f"{severity} {code.label}: {code.cause} ({finding.evidence}); {code.remedy} ({code.more})"
                )
        return sentences


def verdict_on_error(error: Exception) -> Verdict:
    """The verdict on an iteration that an invariant ended; its message begins with the finding's slug."""
    slug, _, said = str(error).partition(": ")
    code = BY_SLUG.get(slug)
    return Verdict((Finding(code, "red", said),)) if code else Verdict()
