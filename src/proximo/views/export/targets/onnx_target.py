"""An ONNX file, which onnxruntime runs in any language and on most hardware."""

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

FILE = "policy.onnx"


def write(policy: ControlPolicy, interface: Interface, folder: Path) -> None:
    """Write the file; the leading axis of everything is `batch`, of any length.

    Raises:
        UserError: packages are missing, or a network of the user's own does what ONNX has no operator for.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise UserError(f"an ONNX export needs {error.name}: pip install 'proximo[export]'") from None
    del onnx, onnxruntime, onnxscript
    module = ExportedPolicy(policy, interface).eval()
    try:
        with quiet():
            program = torch.onnx.export(
                module,
                examples(interface),
                dynamo=True,
                input_names=[port.name for port in interface.inputs],
                output_names=interface.output_names,
                dynamic_shapes=(tuple({0: torch.export.Dim("batch")} for _ in interface.inputs),),
                verbose=False,
            )
        assert program is not None
        program.save(folder / FILE, external_data=False)
    except FOREIGN as error:
        raise UserError(
            f"this policy's network can not be written as ONNX ({on_one_line(error)}): see --to torchscript"
        ) from error


def call(interface: Interface) -> str:
    """How it is called."""
    return f"session.run({interface.output_names}, arrays by name, each with a leading axis)"


def open_export(folder: Path, interface: Interface) -> Play:
    """The file in onnxruntime, on the CPU."""
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])

    def play(given: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        return session.run(interface.output_names, dict(given))

    return play
