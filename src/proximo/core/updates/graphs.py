"""CUDA graphs: the kernels of a function are launched once, recorded, and replayed from then on as one.

What is recorded are kernels and addresses: inputs are copied to where the recording read them, and what comes out is
copied from where it wrote. A function that reads a number on the host, or branches by one, has no graph. This has never
run on a GPU; the tests replay a tape of operators on the CPU instead, with the same addresses.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.core.objectives import Objective
from proximo.core.updates.update import AutogradGradient, Gradient, Statistics, UpdateTask
from proximo.errors import UserError

Tensors = Mapping[str, Tensor]
Recorder = Callable[[Callable[[], None], torch.Generator | None], Callable[[], None]]
"""Runs a function, which may draw from the generator, and gives what runs it again."""


def record_cuda(function: Callable[[], None], generator: torch.Generator | None = None) -> Callable[[], None]:
    """A CUDA graph of `function`, after one run beside it in which libraries make their room (torch: CUDA graphs)."""
    graph, beside = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    if generator is not None:
        graph.register_generator_state(generator)
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        function()
    torch.cuda.current_stream().wait_stream(beside)
    with torch.cuda.graph(graph):
        function()
    return graph.replay


class Replayed:
    """A function of tensors that is called as it is once, recorded at the next call of the same shapes, then replayed.

    Args:
        function: gives tensors by name.
        record: see `Recorder`.
        generator: what it draws from; recording takes nothing out of it.
        undo: called after it was recorded, where it does more than it gives.
    """

    def __init__(
        self,
        function: Callable[[Tensors], Tensors],
        record: Recorder,
        generator: torch.Generator | None = None,
        undo: Callable[[], None] = lambda: None,
    ) -> None:
        self._function, self._record, self._generator, self._undo = function, record, generator, undo
        self._form: object = None
        self._replay: Callable[[], None] | None = None
        self._inputs: dict[str, Tensor] = {}
        self._outputs: Tensors = {}
        self.failed = ""
        """Why nothing could be recorded."""

    def __call__(self, inputs: Tensors) -> Tensors:
        """What the function gives, in room of its own."""
        form = [(name, x.shape, x.dtype) for name, x in inputs.items()]
        if self.failed or form != self._form:
            self._form, self._replay = form, None
            return self._function(inputs)
        if self._replay is None and not self._recorded(inputs):
            return self._function(inputs)
        for name, x in inputs.items():
            self._inputs[name].copy_(x)
        assert self._replay is not None
        self._replay()
        return {name: x.clone() for name, x in self._outputs.items()}

    def _recorded(self, inputs: Tensors) -> bool:
        self._inputs = {name: x.clone() for name, x in inputs.items()}
        state = None if self._generator is None else self._generator.get_state()

        def run() -> None:
            self._outputs = self._function(self._inputs)

        try:
            self._replay = self._record(run, self._generator)
        except RuntimeError as error:  # an operator that can not be recorded
            self.failed = str(error).partition("\n")[0]
        if self._generator is not None and state is not None:
            self._generator.set_state(state)
        self._undo()
        return not self.failed


@dataclass
class Graphs:
    """Where a training replays, and why not where it does not."""

    off: str = ""
    """Why not; empty where it does."""
    record: Recorder = record_cuda
    asked: bool = False
    """Whether what can not be recorded is to end the run."""
    failed: str = ""
    """What could not be recorded after all, and is launched anew each time."""
    _gradient: tuple[Objective, Replayed] | None = field(default=None, repr=False)

    def recorded(self, function: Callable[[], None], generator: torch.Generator | None) -> Callable[[], None]:
        """A `Recorder` that notes what fails.

        Raises:
            RuntimeError: an operator can not be recorded.
            UserError: the same, where graphs were asked for.
        """
        try:
            return self.record(function, generator)
        except RuntimeError as error:
            self.failed = str(error).partition("\n")[0]
            if self.asked:
                raise UserError(f"cuda_graphs = on, but {self.failed}: set it to auto or off") from error
            raise

    def of_gradient(self, task: UpdateTask, objective: Objective, gradient: Gradient) -> Gradient:
        """A gradient that is replayed, of minibatches of one shape; the objective's numbers are part of a recording.

        Args:
            task: the update.
            objective: its numbers.
            gradient: adds the gradient of a minibatch.
        """
        hopeless = self._gradient is not None and bool(self._gradient[1].failed)
        if self.off or hopeless or type(gradient) is not AutogradGradient:
            return gradient
        if self._gradient is None or self._gradient[0] != objective:

            def function(tensors: Tensors) -> Tensors:
                told = gradient(_batch(tensors))
                return {name: torch.as_tensor(x) for name, x in told.items()}

            self._gradient = objective, Replayed(function, self.recorded, undo=task.optimizer.zero_grad)
        return _OfBatches(self._gradient[1], gradient)


@dataclass(frozen=True)
class _OfBatches:
    """A `Replayed` as a gradient that is `Measuring`."""

    replayed: Replayed
    gradient: AutogradGradient

    def __call__(self, minibatch: Batch) -> Statistics:
        if any(x.dtype == torch.float64 for x in minibatch.inputs.values()):
            return self.gradient(minibatch)  # how far they lie from 0 is read by a branch (`ControlPolicy._normalized`)
        told = dict(minibatch.named_tensors()) | {f"old.{name}": x for name, x in minibatch.old.items()}
        return self.replayed(told)

    def divergence(self, minibatch: Batch) -> float:
        return self.gradient.divergence(minibatch)


def _batch(tensors: Tensors) -> Batch:
    columns: dict[str, dict[str, Tensor]] = {"inputs": {}, "old": {}, "": {}}
    for name, x in tensors.items():
        group, dot, rest = name.partition(".")
        columns[group if dot else ""][rest if dot else name] = x
    return Batch(inputs=columns["inputs"], old=columns["old"], **columns[""])
