"""What this process takes of the machine, in a few words."""

import os
import sys
from contextlib import suppress

from proximo.scale.cpus import available_cpus

_GIB = 2**30


def load() -> str:
    """Processes that want a core, of how many there are; and GPU memory where this process holds some: "load 1.9 of 2
    cores, GPU 3.1 of 139.7 GiB". "" where the system tells nothing.
    """
    said = []
    with suppress(OSError, AttributeError):  # not on every system
        cores = available_cpus()
        said.append(f"load {os.getloadavg()[0]:.1f} of {cores} core{'s' * (cores != 1)}")
    if (gpu := _gpu()) is not None:
        said.append(f"GPU {gpu[0]:.1f} of {gpu[1]:.1f} GiB")
    return ", ".join(said)


def _gpu() -> tuple[float, float] | None:
    """GiB that torch holds, and GiB of the device; None where torch has not been asked for a GPU."""
    torch = sys.modules.get("torch")  # a console does not import it
    if torch is None or not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return torch.cuda.memory_reserved() / _GIB, torch.cuda.get_device_properties(0).total_memory / _GIB
