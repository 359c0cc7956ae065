"""Whether the critic is of use."""

from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.diagnosis import Diagnosis, change, diagnosis
from proximo.runs.doctor.record import Record, start_and_end

SMALLEST_STD = 0.02  # of half the action range: an action repeats itself within 1 % of the range


def critic(run: Record) -> Iterator[Diagnosis]:
    """Not trained by its settings; or trained, and below 0 in the second half of the run where returns do vary."""
    coefficient = run.setting("update.value_coefficient")
    if not len(run.measured("value_rms")):
        return  # the algorithm learns no values
    explained = run.column("explained_variance")[len(run.rows) // 2 :]
    usual = float(np.nanmedian(explained)) if np.isfinite(explained).any() else np.nan
    if coefficient == 0:
        change_it = change("update.value_coefficient", 0.0, run.kind.value_coefficient)
        yield diagnosis("P032", "red", f"update.value_coefficient = 0, explained variance {usual:.2g}", change_it)
        return
    spread, size = start_and_end(run.measured("return_std"))[1], start_and_end(run.measured("return_rms"))[1]
    if len(run.rows) >= 20 and usual < 0 and not spread <= 0.05 * size:
        yield diagnosis("P030", "amber", f"explained variance {usual:.2g} in the second half of the run")
