"""Where the networks live and with how many threads, and why."""

from contextlib import ExitStack

import torch
from threadpoolctl import threadpool_limits

from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError

WORK = 2**15
"""Environments × width of the widest layer from which on `auto` takes a GPU: 64 environments and layers of 512. There
one step of acting (two networks of 512-256-128) is 0.05 GFLOP, half a millisecond of one core at 100 GFLOP/s, which is
about what launching its twenty kernels and two copies takes a GPU. No GPU was measured for this."""
WIDE = 512
"""Wider layers are for a GPU whatever the number of environments."""


def choose_device(
    asked: str,
    observations: ObservationSpec,
    hidden: tuple[int, ...],
    beside: str | None = None,
    environments: int = 1,
) -> tuple[torch.device, str]:
    """The device for a run, and the reason in one sentence.

    Args:
        asked: the setting.
        observations: what the policy sees.
        hidden: widths of its layers.
        beside: device of environments whose steps are tensors; None where they are of NumPy.
        environments: that are stepped together.

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
    if beside is not None:
        return torch.device(beside), "the environments are there"
    if observations.images:
        return torch.device("cuda"), "images are faster on the GPU"
    width = max(hidden, default=0)
    if width > WIDE:
        return torch.device("cuda"), f"layers wider than {WIDE} are faster on the GPU"
    work = f"{environments:,} environments x layers of {width} = {environments * width:,}"
    if environments * width < WORK:
        return torch.device("cpu"), f"{work}, and below {WORK:,} a GPU waits for its launches longer than it computes"
    return torch.device("cuda"), f"{work}, which from {WORK:,} on is faster on the GPU"


def limit_threads(stack: ExitStack, asked: str, *, images: bool) -> int:
    """One thread for each product: a second one costs more than it brings, and it takes a core from EnvPool.

    Before the networks are made, since an orthogonal matrix depends on how many threads compute it. On a GPU,
    convolutions keep all digits of float32: with TF32 a log-prob of the rollout and of the update would differ by 1e-3.

    Args:
        stack: puts everything back when it is closed.
        asked: the setting `device`.
        images: whether the policy sees some.

    Returns:
        How many there were, as the machine or `OMP_NUM_THREADS` says: large minibatches may be shared by as many
        (`control.closed_form.parts`).
    """
    found = torch.get_num_threads()
    if torch.cuda.is_available():
        stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        torch.backends.cudnn.allow_tf32 = False
    if asked != "cuda" and not images:
        stack.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)
        stack.enter_context(threadpool_limits(1, user_api="blas"))
    return found
