"""The finding of one of the doctor's rules."""

from dataclasses import dataclass
from typing import Any

from proximo.runs.health import CODES, Finding
from proximo.runs.health.codes import Severity


@dataclass(frozen=True)
class Change:
    """A setting to change."""

    option: str
    """As it stands on the command line, without the dashes; or what else to do, where `proposed` is empty."""
    now: str = ""
    proposed: str = ""

    def __str__(self) -> str:
        """`--learning-rate 0.2 -> 0.003`; a schedule stands in quotes, as it is typed."""
        now = f"'{self.now}'" if " " in self.now else self.now
        return f"--{self.option} {now} -> {self.proposed}" if self.proposed else self.option


@dataclass(frozen=True)
class Diagnosis:
    """One finding over a whole run, with what to change first."""

    finding: Finding
    changes: tuple[Change, ...] = ()
    iteration: int | None = None
    """Iteration at which it began, from 0; None where it is so throughout."""

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **self.finding.plain(),
            "iteration": self.iteration,
            "changes": [vars(change) for change in self.changes],
        }


def diagnosis(
    number: str, severity: Severity, evidence: str, *changes: Change, iteration: int | None = None
) -> Diagnosis:
    """A diagnosis of the code with this number."""
    return Diagnosis(Finding(CODES[number], severity, evidence), changes, iteration)


def change(option: str, now: Any, proposed: Any) -> Change:
    """A setting, as it is and as it should be."""
    return Change(option.replace("_", "-"), _shown(now), _shown(proposed))


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:.2g}" if isinstance(value, float) else str(value)
