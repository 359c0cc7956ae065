"""Full copies of policy, critic and reference whose weights are spread over the ranks."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from proximo.scale.mesh import Mesh
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
    """

    def __init__(
        self, model: Any, value_head: nn.Module, critic: Any, reference: Any, mesh: Mesh, *, offload: bool = False
    ) -> None:
        self.policy = Together(model, _layers(model.get_decoder()), mesh)
        self.value_head = shard(value_head, [], mesh)
        self.critic = None if critic is None else shard(critic, _layers(critic), mesh)
        self.reference = None
        if reference is not None:
            self.reference = Together(reference, _layers(reference.get_decoder()), mesh, offload=offload)
        self._mesh = mesh

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
