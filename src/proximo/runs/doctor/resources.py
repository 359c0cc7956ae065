"""Memory and time that a run takes from its machine."""

from collections.abc import Iterator

import numpy as np

from proximo.runs.doctor.diagnosis import Diagnosis, diagnosis
from proximo.runs.doctor.record import Record

FEWEST = 32  # iterations after the warm-up, before a slope is one


def memory_grows(run: Record) -> Iterator[Diagnosis]:
    """The slope of the memory over the run without its first tenth: by a fifth and 100 MB upwards, all the way.

    The first tenth is the warm-up: allocators, caches and kernels take their memory there. The slope is that from the
    median of the first fifth of the rest to that of the last, which no spike moves; a single jump is no slope, so each
    fifth must rise above the one before it, by a tenth of the whole.
    """
    values = run.column("memory_mb")
    iterations = np.flatnonzero(np.isfinite(values))
    iterations = iterations[iterations >= len(values) // 10]
    if len(iterations) < FEWEST:
        return
    fifths = np.array([np.median(values[part]) for part in np.array_split(iterations, 5)])
    slope = (fifths[-1] - fifths[0]) / (0.8 * len(iterations))  # from the middle of one to the middle of the other
    grown = slope * len(iterations)
    if grown > max(100.0, 0.2 * fifths[0]) and np.diff(fifths).min() > 0.1 * (fifths[-1] - fifths[0]):
        yield diagnosis(
            "P045", "amber", f"{slope:.2g} MB per iteration, {grown:,.0f} MB in {len(iterations)} iterations"
        )
