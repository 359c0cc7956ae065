"""One thread for all: these tests are many small computations, and threads that wait for each other spin."""

import os

# Before NumPy and torch are imported, here and in the processes that tests start.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
