"""Numbers that a policy can read."""

from __future__ import annotations

import numpy as np

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def fits_float32(numbers: np.ndarray) -> np.ndarray:
    """Where floating-point numbers are finite also in the float32 that a policy reads, of the same shape."""
    # One comparison for NaN, infinities, and what becomes one of them.
    fine: np.ndarray = np.isfinite(numbers) if numbers.itemsize <= 4 else np.abs(numbers) <= LARGEST_FLOAT32
    return fine
