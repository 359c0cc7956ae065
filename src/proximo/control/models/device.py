"""Where the networks live and with how many threads, and why."""

from contextlib import ExitStack

import torch
from threadpoolctl import threadpool_limits

from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError


def choose_device(
    asked: str, observations: ObservationSpec, hidden: tuple[int, ...], beside: str = "cpu"
) -> tuple[torch.device, str]:
    """The device for a run, and the reason in one sentence.

    Args:
        asked: the setting.
        observations: what the policy sees.
        hidden: widths of its layers.
        beside: device of the environments.

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
    if beside.startswith("cuda"):
        return torch.device(beside), "the environments are there"
    if not observations.images and max(hidden, default=0) <= 512:
        return torch.device(
            "cpu"
        ), "launching kernels for networks this small takes a GPU longer than the CPU computes them"
    return torch.device("cuda"), "images or wide layers are faster on the GPU"


def limit_threads(stack: ExitStack, asked: str, *, images: bool) -> int:
    """One thread for each product: a second one costs more than it brings, and it takes a core from EnvPool.

    Before the networks are made, since an orthogonal matrix depends on how many threads compute it. On a GPU,
    convolutions keep all digits of float32: with TF32 a log-prob of the rollout and of the update would differ by 1e-3.

    Args:
        stack: puts everything back when it is closed.
        asked: the setting `device`.
        images: whether the policy sees some.
    """
    if torch.cuda.is_available():
        stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        torch.backends.cudnn.allow_tf32 = False
    if asked != "cuda" and not images:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stack.enter_context(threadpool_limits(1, user_api="blas"))

    Returns:
        How many there were, as the machine or `OMP_NUM_THREADS` says: large minibatches may be shared by as many
        (`control.closed_form.parts`).
    found = torch.get_num_threads()
    return found
