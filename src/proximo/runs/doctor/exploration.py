"""Signs that the policy no longer explores, or that the critic is of no use."""

from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.diagnosis import Diagnosis, change, diagnosis
from proximo.runs.doctor.record import Record, start_and_end
from proximo.runs.health.codes import Severity

SMALLEST_STD = 0.02  # of half the action range: an action repeats itself within 1 % of the range


def _coefficient(run: Record) -> float:
    """The entropy bonus at the start."""
    schedule = run.schedule("update.entropy_coefficient")
    return schedule.start if schedule else 0.0


def entropy_collapsed(run: Record) -> Iterator[Diagnosis]:
    """Red where the settings ask for it or the return did not survive it; else a solved task may look so too."""
    continuous = "std" in run.rows[0]
    values = run.column("std" if continuous else "entropy")
    if run.language or not np.isfinite(values[0]):
        return
    bonus = _coefficient(run)
    gone = values < (SMALLEST_STD if continuous else 0.02 * values[0])
    if bonus < 0:
        gone |= values < 0.75 * values[0]  # on its way, and paid for it
    if not gone[-1]:
        return
    began = int(gone.argmax())
    severity: Severity = "red" if bonus < 0 or began == 0 or _suffered(run, began) else "amber"
    changes = []
    if bonus < 0 or not continuous:
        changes.append(change("update.entropy_coefficient", bonus, 0.0 if continuous else 0.01))
    if continuous and began == 0:
        changes.append(change("network.log_std", run.setting("network.log_std"), -1.0))
    said = f"{'std' if continuous else 'entropy'} {values[0]:.2g} at first, {values[-1]:.2g} at the end"
    if bonus:
        said += f", with update.entropy_coefficient = {bonus:g}"
    yield diagnosis("P025", severity, said, *changes, iteration=began)


def _suffered(run: Record, began: int) -> bool:
    """True if the return fell after that iteration by more than a tenth of its range."""
    returns = run.column("return")
    known = returns[np.isfinite(returns)]
    return bool(np.isfinite(returns[began]) and returns[-1] < returns[began] - 0.1 * np.ptp(known))


def entropy_rising(run: Record) -> Iterator[Diagnosis]:
    """The deviation more than doubled, while a bonus pays for it."""
    values, bonus = run.measured("std"), _coefficient(run)
    if len(values) and values[-1] > 2.5 * values[0] and bonus > 0:
        cut = run.measured("clipped_actions")[-1]
        yield diagnosis(
            "P026",
            "red" if cut > 0.6 else "amber",
            f"std {values[0]:.2g} -> {values[-1]:.2g}, {cut:.0%} of the actions at their bounds",
            change("update.entropy_coefficient", bonus, 0.0),
        )


def critic(run: Record) -> Iterator[Diagnosis]:
    """Not trained by its settings; or trained, and below 0 in the second half of the run where returns do vary."""
    coefficient = run.setting("update.value_coefficient")
    if not len(run.measured("value_rms")):
        return  # the algorithm learns no values
    explained = run.column("explained_variance")[len(run.rows) // 2 :]
    usual = float(np.nanmedian(explained)) if np.isfinite(explained).any() else np.nan
    if coefficient == 0:
        change_it = change("update.value_coefficient", 0.0, 0.1 if run.language else 0.5)
        yield diagnosis("P032", "red", f"update.value_coefficient = 0, explained variance {usual:.2g}", change_it)
        return
    spread, size = start_and_end(run.measured("return_std"))[1], start_and_end(run.measured("return_rms"))[1]
    if len(run.rows) >= 20 and usual < 0 and not spread <= 0.05 * size:
        yield diagnosis("P030", "amber", f"explained variance {usual:.2g} in the second half of the run")
