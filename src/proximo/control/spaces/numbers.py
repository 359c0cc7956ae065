"""Numbers that a policy can read."""

from __future__ import annotations

from typing import Any

import numpy as np

LARGEST_FLOAT32 = float(np.finfo(np.float32).max)


def is_wide(dtype: Any, float32: Any) -> bool:
    """Whether numbers of a type have digits that float32 has no room for; `float32` is that type in the same library,
    NumPy or torch.
    """
    return bool(dtype.itemsize >= 4 and dtype != float32)


def fits_float32(numbers: np.ndarray) -> np.ndarray:
    """Where floating-point numbers are finite also in the float32 that a policy reads, of the same shape."""
    # One comparison for NaN, infinities, and what becomes one of them.
    fine: np.ndarray = np.isfinite(numbers) if numbers.itemsize <= 4 else np.abs(numbers) <= LARGEST_FLOAT32
    return fine
