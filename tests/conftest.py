"""One thread for all: these tests are many small computations, and threads that wait for each other spin."""

import os

from hypothesis import HealthCheck, settings

# Before NumPy and torch are imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

# No test depends on the clock: an example may take as long as a busy machine needs.
settings.register_profile("proximo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("proximo")
