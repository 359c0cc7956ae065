"""Memory that a process takes of its machine."""

import os
import sys


def resident_memory() -> float | None:
    """Memory of this process in MB (2^20 bytes), now; None where the system does not say cheaply."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/statm", "rb") as statm:
        pages = int(statm.read().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def available_memory() -> float | None:
    """Memory that a process could still take, in MB (2^20 bytes); None where the system does not say cheaply."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        facts = dict(line.split(":", 1) for line in meminfo)
    return int(facts["MemAvailable"].split()[0]) / 2**10
