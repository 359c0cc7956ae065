"""One thread for all: these tests are many small computations, and threads that wait for each other spin."""

import gc
import os
import shutil
import sys
from pathlib import Path

import warm  # noqa: F401 -- here first, it names the server of all processes that pytest starts
from hypothesis import HealthCheck, settings

# Before NumPy and torch are imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

# No test depends on the clock: an example may take as long as a busy machine needs.
settings.register_profile("proximo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proximo")

# A run writes each checkpoint through to the disk. Where memory can stand in for a disk, no test waits for one.
MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 4e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

_modules = 0


def pytest_xdist_auto_num_workers(config):
    """One more than there are cores: a fifth of the time a test waits, for processes, pages and pauses."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish(session):
    _set_libraries_aside()


def pytest_runtest_teardown(item, nextitem):
    _set_libraries_aside()


def _set_libraries_aside():
    """What libraries leave in memory is not searched for garbage again and again (a quarter of some tests' time)."""
    global _modules
    if len(sys.modules) > _modules + 100:
        gc.collect()
        gc.freeze()
        _modules = len(sys.modules)
