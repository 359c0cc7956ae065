"""What torch's exporters are given, and their silence."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO

import numpy as np
import torch

from proximo.views.export.interface import Interface


def examples(interface: Interface) -> tuple[torch.Tensor, ...]:
    """Two observations of zeros and ones, in the order of the inputs."""
    made = []
    for port in interface.inputs:
        smallest = np.broadcast_to(np.asarray(port.start or 0).reshape(port.shape if port.start else ()), port.shape)
        whole = port.meaning == "mask"
        made.append(torch.from_numpy(np.stack([np.ones(port.shape) if whole else smallest] * 2).astype(port.dtype)))
    return tuple(made)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporters tell about themselves."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
