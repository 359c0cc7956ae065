"""Full copies of policy, critic and reference whose weights are spread over the ranks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proximo.scale.mesh import Mesh
from proximo.scale.parts import fill_parts
from proximo.scale.sharded import Together, on_the_first, settle, shard


class Spread:
    """Policy, critic and reference of some roles, each gathered when it computes, a layer at a time.

    Args:
        model: the policy, whose head is asked apart from its decoder.
        value_head: of the critic.
        critic: a separate one, or None.
        reference: a model like the policy, frozen, or None.
        mesh: the ranks.
        offload: whether what is frozen lies in main memory.
        weights: folder of the policy's weights, which reference and critic start from too, where those of `model` are
            on `meta`: each rank reads its own parts.
    """

    def __init__(
        self,
        model: Any,
        value_head: nn.Module,
        critic: Any,
        reference: Any,
        mesh: Mesh,
        *,
        offload: bool = False,
        weights: Path | None = None,
    ) -> None:
        self._mesh = mesh
        names = {name: name for name, _ in model.named_parameters()}
        prefix = next(name for name, part in model.named_modules() if part is model.get_decoder())
        inner = {name.removeprefix(f"{prefix}."): name for name in names if name.startswith(f"{prefix}.")}

        def fill(module: nn.Module, by: Mapping[str, str] = names, put: torch.device = mesh.device) -> None:
            if weights is not None:
                fill_parts(module, by, weights, mesh, device=put)

        self.policy = Together(model, _layers(model.get_decoder()), mesh, fill=fill)
        self.value_head = shard(value_head, [], mesh)
        self.critic = None if critic is None else shard(critic, _layers(critic), mesh)
        if critic is not None and next(critic.parameters()).is_meta:
            fill(critic, inner)
        self.reference = None
        if reference is not None:
            put = torch.device("cpu") if offload else mesh.device
            layers = _layers(reference.get_decoder())
            self.reference = Together(reference, layers, mesh, offload=offload, fill=lambda x: fill(x, put=put))

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Within, rank 0 has all that is trained whole, to be saved; all ranks enter."""
        with ExitStack() as stack:
            for module in (self.policy, self.value_head, self.critic):
                if module is not None:
                    stack.enter_context(on_the_first(module, self._mesh))
            yield

    def settle(self) -> None:
        """Give up what a pass that broke off has left whole."""
        for module in (self.policy, self.value_head, self.critic, self.reference):
            if module is not None:
                settle(module)


def _layers(decoder: Any) -> list[nn.Module]:
    """A decoder's layers; of one whose layers are elsewhere nothing is gathered apart, which costs memory only."""
    found = getattr(decoder, "layers", None)
    return list(found) if isinstance(found, nn.ModuleList) else []
