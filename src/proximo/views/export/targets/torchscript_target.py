"""A TorchScript file, which torch loads in Python and in C++ (libtorch) without Proximo.

Torch calls TorchScript deprecated since 2.10 in favour of `torch.export`, and still writes and loads it; the warnings
about that are kept from the user, who asked for it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from proximo.control.models.policy import ControlPolicy
from proximo.errors import FOREIGN, UserError
from proximo.runs.plugins import on_one_line
from proximo.views.export.interface import Interface
from proximo.views.export.module import ExportedPolicy
from proximo.views.export.parity import Play
from proximo.views.export.targets.tracing import examples, quiet

FILE = "policy.pt"


def write(policy: ControlPolicy, interface: Interface, folder: Path) -> None:
    """Write the file: a trace.

    Raises:
        UserError: a network of the user's own can not be traced.
    """
    module = ExportedPolicy(policy.requires_grad_(False), interface).eval()
    try:
        with quiet():
            # A function: of a module the tracer asks every property, and the weights become constants of it.
            traced = torch.jit.trace(lambda *given: module(*given), examples(interface), check_trace=False)
            traced.save(str(folder / FILE))
    except FOREIGN as error:
        raise UserError(f"this policy's network can not be traced for TorchScript ({on_one_line(error)})") from error


def call(interface: Interface) -> str:
    """How it is called."""
    one = "" if len(interface.output_names) > 1 else " of one tensor"
    return f"module({', '.join(port.name for port in interface.inputs)}), each with a leading axis -> a tuple{one}"


def open_export(folder: Path, interface: Interface) -> Play:
    """The file, loaded."""
    with quiet():
        module = torch.jit.load(str(folder / FILE))

    def play(given: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(given[p.name])) for p in interface.inputs))
        return [x.numpy() for x in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return play
