"""The one thing both worlds hand to the update."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from proximo.core.distributions import Distribution
from proximo.core.statistics import weighted_mean

_COLUMNS = ("action", "log_prob", "value", "advantages", "returns", "weight")


@dataclass(frozen=True)
class Batch:
    """Samples along a leading axis: environment steps `[B]`, whole sequences `[B, T]`, or responses `[B, R]`."""

    inputs: Mapping[str, Tensor]
    """What `policy.evaluate` reads beside the action, each `[B, ...]`."""
    action: Tensor
    """`[B, ...]`, as it was sampled: unclipped, unsquashed."""
    log_prob: Tensor
    """`[B]` or `[B, T]`, of the action under the policy that took it, nats."""
    value: Tensor
    """Same shape: the critic's output when the rollout was taken."""
    advantages: Tensor
    """Same shape."""
    returns: Tensor
    """Same shape: the critic's target."""
    weight: Tensor
    """Same shape; 0 = padding, a row that only reports a reset, a prompt token."""
    total_weight: Tensor | None = None
    """Sum of the weights of the minibatch that this is a part of, a scalar; None where it is a whole."""
    old: Mapping[str, Tensor] = field(default_factory=dict)
    """What the distributions of the policy that acted were made of (`Distribution.tensors`), each `[B, ...]`; empty
    where nobody asks."""

    def __len__(self) -> int:
        """Samples along the leading axis."""
        return len(self.weight)

    def __getitem__(self, index: Tensor | slice) -> "Batch":
        """The samples at `index` (a slice is a view, a tensor of integers a copy)."""
        if isinstance(index, slice):
            return self.map(lambda x: x[index])
        return self.map(lambda x: x.index_select(0, index))  # a fraction of the time of x[index]

    def split(self, parts: int | Sequence[int]) -> Iterator["Batch"]:
        """The batch in at most `parts` consecutive parts, or in parts of the sizes given, as views."""
        size = -(-len(self) // parts) if isinstance(parts, int) else list(parts)
        # Each tensor is taken apart once, instead of a slice for each part and tensor.
        columns = {name: getattr(self, name).split(size) for name in _COLUMNS}
        inputs, old = ({n: x.split(size) for n, x in several.items()} for several in (self.inputs, self.old))
        for i in range(len(columns["weight"])):
            yield Batch(
                {name: x[i] for name, x in inputs.items()},
                **{name: x[i] for name, x in columns.items()},
                old={name: x[i] for name, x in old.items()},
            )

    def named_tensors(self) -> list[tuple[str, Tensor]]:
        """Everything it holds, inputs as `inputs.NAME`, always in one order."""
        inputs = [(f"inputs.{name}", self.inputs[name]) for name in sorted(self.inputs)]
        return inputs + [(name, getattr(self, name)) for name in _COLUMNS]

    def map(self, function: Callable[[Tensor], Tensor]) -> "Batch":
        """The batch with `function` applied to every tensor."""
        tensors = {name: function(getattr(self, name)) for name in _COLUMNS}
        inputs, old = ({name: function(x) for name, x in several.items()} for several in (self.inputs, self.old))
        return Batch(inputs=inputs, **tensors, old=old)

    def replace(self, **tensors: Tensor | Mapping[str, Tensor]) -> "Batch":
        """A copy with some tensors exchanged."""
        return replace(self, **tensors)  # type: ignore[arg-type]

    def mean(self, x: Tensor) -> Tensor:
        """Weighted mean of `x` over the whole minibatch; its parts' means add up to that of the whole.

        Args:
            x: one number per sample, the shape of `weight`.
        """
        return weighted_mean(x, self.weight, self.total_weight)


@dataclass(frozen=True)
class Evaluation:
    """What a policy says of a batch, with gradient; each `[B]` or `[B, T]` as the batch's log-probs."""

    log_prob: Tensor
    entropy: Tensor
    value: Tensor | None
    distribution: Distribution | None = None
    """Over the actions; None where it would have to be held for each of a vocabulary's tokens."""


@dataclass(frozen=True)
class Action:
    """What a policy does, without gradient; leading axis `[N]`."""

    action: Tensor
    log_prob: Tensor | None
    """None where it is asked for later, about a whole rollout at once, from `output`."""
    value: Tensor | None
    """None where the critic is asked later, likewise."""
    memory: Tensor | None = None
    """State of a recurrent policy after this step, `[N, ...]`."""
    output: Tensor | None = None
    """What the action was drawn from, `[N, outputs]`, where there is no log-prob yet."""
