"""Freed memory is kept for the next tensor, instead of being given back to the system and mapped afresh.

An update of a language model makes and drops thousands of tensors of megabytes. By default the C library maps each of
the larger ones anew, and the kernel zeroes it page by page when it is first touched: with SmolLM2-135M on a CPU that
was a fifth of an update's time.

Kept memory is cut into pieces, and what a small tensor leaves of a large piece no large tensor fits into: in a run of
ten minutes it grew to four times of what is needed. `FreedMemory` gives it back before that.
"""

import ctypes
import gc
import os
from collections.abc import Callable

from proximo.runs.system import resident_memory

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_KEPT_BYTES, _LARGEST_BYTES = 2**31 - 1, (2**30, 2**25)  # an int each; older glibc takes 32 MB at most


def keep_freed_memory() -> bool:
    """Set the C library's allocator for large tensors; the setting holds for the process.

    Call it before torch is imported where that can be: torch then asks for huge pages too.

    Returns:
        Whether the C library took it (glibc does; others keep their own ways).
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # Windows, macOS, musl
        return False
    # In this order: a trim threshold alone would fix the other one at its small default.
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _LARGEST_BYTES) and bool(
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
    )


class FreedMemory:
    """Gives back what has been freed: at once, and when the process holds a quarter more than an iteration needs.

    That takes 0.04 s for 2 GB, and the next iteration maps what it needs anew.
    """

    def __init__(self) -> None:
        try:
            self._trim: Callable[[int], int] | None = ctypes.CDLL(None).malloc_trim
        except (OSError, AttributeError, TypeError):  # not glibc: nothing is kept
            self._trim = None
        gc.collect()
        if self._trim is not None:  # of stages before this one, in the same process
            self._trim(0)
        self._needed = 0.0
        self._given_back = True

    def tidy(self) -> None:
        """After each iteration."""
        held = resident_memory()
        if held is None or self._trim is None:
            return
        if self._given_back:  # what is held now, one iteration has needed
            self._needed, self._given_back = max(self._needed, held), False
        elif held > 1.25 * self._needed:
            self._trim(0)
            self._given_back = True
