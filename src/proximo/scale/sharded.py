"""Networks whose weights, gradients and moments are spread over the ranks, by torch's FSDP2 (Zhao et al. 2023, arXiv
2304.11277), asked for sums: a minibatch has one denominator over all ranks, and ranks may have unequal parts of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from proximo.core.ranks import Ranks
from proximo.core.updates.optimizer import adam_step
from proximo.scale.mesh import Mesh

Answer = TypeVar("Answer")


def shard(module: nn.Module, layers: Sequence[nn.Module], mesh: Mesh, *, offload: bool = False) -> nn.Module:
    """Leave each rank its part of a module's parameters; they are whole while the module's `forward` runs.

    Args:
        module: whose `forward` is called; all ranks have to call it, and differentiate it, equally often.
        layers: of the module, each gathered by itself when it is its turn.
        mesh: the ranks.
        offload: whether the parts lie in main memory, where the module computes on a GPU.
    """
    plane = init_device_mesh(mesh.device.type, (mesh.size,))
    policy = CPUOffloadPolicy(pin_memory=torch.cuda.is_available()) if offload else OffloadPolicy()
    for part in (*layers, module):
        # The root too gives its whole weights up after a forward pass: one without a backward pass would leave them
        # there, and they would outlive the next step.
        fully_shard(part, mesh=plane, reshard_after_forward=True, offload_policy=policy)
    for unit in _sharded(module):
        # Both: without the first, a factor of 1 is a kind of sum that gloo does not know; without the second, a mean.
        unit.set_force_sum_reduction_for_comms(True)
        unit.set_gradient_divide_factor(1.0)
        unit.set_reduce_scatter_unused_params(True)
    return module


def _sharded(module: nn.Module) -> list[FSDPModule]:
    return [part for part in module.modules() if isinstance(part, FSDPModule)]


class Together(nn.Module):
    """Networks that a function computes with as it likes: their weights are whole while it runs.

    Args:
        network: a module whose parts are asked by themselves, as a decoder and its head are.
        layers: see `shard`.
        mesh: the ranks.
        offload: see `shard`.
        fill: gives the network its weights once they are shared out, where it has none yet.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[nn.Module],
        mesh: Mesh,
        *,
        offload: bool = False,
        fill: Callable[[nn.Module], None] | None = None,
    ) -> None:
        super().__init__()
        self.network, self._mesh = network, mesh
        shard(self, layers, mesh, offload=offload)
        if fill is not None:
            fill(network)
        self(_nothing)  # who runs first is the root of all

    def forward(self, function: Callable[..., Answer], *given: Any) -> Answer:
        """What `function` returns: a tensor, or a tuple of tensors, for a gradient to flow back through."""
        return function(*given)

    @contextmanager
    def whole(self, *, layers: bool) -> Iterator[None]:
        """Within, weights are whole, for passes without a gradient; ranks may make unequally many.

        Args:
            layers: whether those of the layers are too, all at once; else each is gathered when it is its turn, and
                ranks have to make equally many passes.
        """
        root: Any = self
        held = _sharded(self) if layers else [root]
        try:
            with self._mesh.apart():
                for part in held:
                    part.set_reshard_after_forward(False, recurse=False)
                    part.unshard()
            yield
        finally:
            root.reset_iter_state()
            for part in held:
                part.set_reshard_after_forward(True, recurse=False)


def settle(module: nn.Module) -> None:
    """Give up whole weights and sums of gradients that a pass which broke off has left.

    Args:
        module: that `shard` was asked to shard.
    """
    root: Any = module
    with suppress(AttributeError):  # of one that nothing has run through yet
        root.reset_iter_state()


def _nothing() -> None:
    """Computes nothing."""


@contextmanager
def on_the_first(module: nn.Module, mesh: Mesh) -> Iterator[None]:
    """Within, rank 0 has a module's weights whole, in main memory, to be saved; no pass is possible.

    Args:
        module: sharded, outside of any pass.
        mesh: the ranks; all of them enter together.
    """
    held = [
        (owner, name, p)
        for owner in module.modules()
        for name, p in owner._parameters.items()
        if isinstance(p, DTensor)
    ]
    whole: dict[int, nn.Parameter] = {}
    part: Any
    for _, _, part in held:
        if id(part) not in whole:  # tied ones once
            with mesh.apart():
                full = part.detach().full_tensor()
                whole[id(part)] = nn.Parameter(full.cpu() if mesh.first else full.new_empty(0), requires_grad=False)
    try:
        for owner, name, p in held if mesh.first else ():
            owner._parameters[name] = whole[id(p)]
        yield
    finally:
        for owner, name, p in held:
            owner._parameters[name] = p


class ShardedAdam:
    """Adam as in `core.updates.optimizer.FlatAdam`, each rank on its own part of every parameter; see `Optimizer`.

    Args:
        parameters: of sharded modules.
        learning_rate: see `FlatAdam`.
        epsilon: see `FlatAdam`.
        mesh: the ranks.
        configured_rate: see `FlatAdam`.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        learning_rate: float,
        epsilon: float,
        mesh: Mesh,
        *,
        configured_rate: float | None = None,
    ) -> None:
        self.parameters = list(parameters)
        self.learning_rate = learning_rate
        self.configured_rate = learning_rate if configured_rate is None else configured_rate
        self._epsilon, self._mesh = epsilon, mesh
        self._steps = 0
        self._moments: dict[str, list[Tensor]] = {}

    @property
    def flat(self) -> Tensor:
        """See `Optimizer`: a copy of this rank's parts."""
        return _flat(self._weights())

    @property
    def gradient(self) -> Tensor:
        """See `Optimizer`: a copy of this rank's parts."""
        return _flat(self._gradients())

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._steps

    def zero_grad(self) -> None:
        """Forget the gradient."""
        for p in self.parameters:
            p.grad = None

    @torch.no_grad()
    def step(self, max_grad_norm: float | None = None) -> Tensor:
        """Clip the gradient of all parts together to `max_grad_norm` and take one step.

        Returns:
            The norm of the whole gradient before clipping, a scalar.
        """
        weights, gradients = self._weights(), self._gradients()
        squares = torch.stack([g.double().square().sum() for g in gradients]).sum()
        norm = self._mesh.sum_across_ranks(squares).sqrt().float()
        if max_grad_norm is not None:
            factor = max_grad_norm / (norm + 1e-6).clamp(min=max_grad_norm)
            gradients = [g.mul_(factor) for g in gradients]
        self.begin(self._steps)
        moments = {name: [_local(x) for x in parts] for name, parts in self._moments.items()}
        mine = [i for i, w in enumerate(weights) if w.numel()]  # of a short parameter some ranks have nothing
        steps = torch.full((len(mine),), float(self._steps), device=norm.device)
        if mine:
            adam_step(
                [weights[i] for i in mine],
                [gradients[i] for i in mine],
                [moments["exp_avg"][i] for i in mine],
                [moments["exp_avg_sq"][i] for i in mine],
                list(steps.unbind()),
                self.learning_rate,
                self._epsilon,
            )
        self._steps += 1
        return norm

    def sum_across(self, ranks: Ranks, numbers: Tensor) -> Tensor:
        """See `Optimizer`: the backward pass has summed the gradient."""
        return ranks.sum_across_ranks(numbers)

    def load_weights(self, flat: Tensor) -> None:
        """See `Optimizer`."""
        _fill(self._weights(), flat)

    def state(self, device: torch.device | str | None = None) -> dict[str, Tensor]:
        """See `Optimizer`."""
        if not self._moments:
            return {}
        moments = {name: _flat([_local(x) for x in parts]) for name, parts in self._moments.items()}
        told = {"step": torch.tensor(float(self._steps)), **moments}
        return {name: x.to(device or x.device) for name, x in told.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """See `Optimizer`."""
        self._moments, self._steps = {}, 0
        if state:
            self.begin(int(state["step"]))
            for name, parts in self._moments.items():
                _fill([_local(x) for x in parts], state[name])

    def begin(self, steps: int) -> None:
        """See `Optimizer`."""
        self._steps = steps
        for name in ("exp_avg", "exp_avg_sq"):
            self._moments.setdefault(name, [torch.zeros_like(p.detach()) for p in self.parameters])

    def parts(self) -> list[dict[str, Tensor]]:
        """See `Optimizer`: DTensors."""
        columns = {"weight": [p.detach() for p in self.parameters], **self._moments}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(self.parameters))]

    def _weights(self) -> list[Tensor]:
        return [_local(p) for p in self.parameters]

    def _gradients(self) -> list[Tensor]:
        pairs = zip(self._weights(), self.parameters, strict=True)
        return [torch.zeros_like(w) if p.grad is None else _local(p.grad) for w, p in pairs]


@torch.no_grad()
def _local(x: Tensor) -> Tensor:
    """This rank's part, not a copy."""
    return x.to_local() if isinstance(x, DTensor) else x


def _flat(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat([x.detach().reshape(-1) for x in parts])


@torch.no_grad()
def _fill(parts: Sequence[Tensor], flat: Tensor) -> None:
    for x, values in zip(parts, flat.split([x.numel() for x in parts]), strict=True):
        x.copy_(values.view(x.shape))
