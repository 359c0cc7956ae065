"""Where the networks live, and why."""

import torch

from proximo.control.observations import ObservationSpec
from proximo.runs.errors import UserError


def choose_device(asked: str, observations: ObservationSpec, hidden: tuple[int, ...]) -> tuple[torch.device, str]:
    """The device for a run, and the reason in one sentence.

    Raises:
        UserError: cuda was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if asked == "cuda":
        if not available:
            raise UserError("device = cuda, but torch sees no CUDA device here; set device to cpu or auto")
        return torch.device("cuda"), "as asked"
    if asked == "cpu":
        return torch.device("cpu"), "as asked"
    if not available:
        return torch.device("cpu"), "torch sees no GPU"
    if not observations.images and max(hidden, default=0) <= 512:
        return torch.device(
            "cpu"
        ), "launching kernels for networks this small takes a GPU longer than the CPU computes them"
    return torch.device("cuda"), "images or wide layers are faster on the GPU"
