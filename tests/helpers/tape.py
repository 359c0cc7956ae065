"""A stand-in for CUDA graphs on the CPU: the operators of a function with the very tensors they read and wrote."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST = ("aten::_local_scalar_dense", "aten::is_nonzero", "aten::nonzero", "aten::lift_fresh")
"""Operators whose result the host reads, and a tensor of the host's own numbers: a graph can not hold them."""


class Tape(TorchDispatchMode):
    """Notes operators; `replay` runs them again on what their tensors hold by then, and the results lie where the first
    ones lay. No line of Python between them runs again.
    """

    def __init__(self):
        super().__init__()
        self.operators, self.replays = [], 0

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        if operator.name().partition(".")[0] in HOST:
            raise RuntimeError(f"operation not permitted when stream is capturing: {operator.name()}")
        kwargs = kwargs or {}
        results = operator(*args, **kwargs)
        self.operators.append((operator, args, kwargs, results))
        return results

    @torch.no_grad()
    def replay(self):
        self.replays += 1
        for operator, args, kwargs, results in self.operators:
            again = operator(*args, **kwargs)
            for first, now in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(first, torch.Tensor) and first.data_ptr() != now.data_ptr():  # no view, not in place
                    first.copy_(now)


def recorder(tapes):
    """A `Recorder` that puts what it records into a list."""

    def record(function, generator=None):
        function()  # libraries make their room
        with Tape() as tape:
            function()
        tapes.append(tape)
        return tape.replay

    return record
