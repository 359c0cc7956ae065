"""What a process may use of the processors of its machine."""

import os


def available_cpus() -> int:
    """How many CPUs this process may use: fewer than the machine has under `taskset`, Slurm or a container."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
