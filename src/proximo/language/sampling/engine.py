"""What draws responses: our own sampler, or another engine, which has a copy of the weights and is checked after each
load.

An engine takes new weights after every update. Where it takes only some of them, keeps an old cache or a packed copy of
the head, it goes on drawing, from another policy than the one that learns. Nothing fails; so a few of its tokens are
scored by the trainer before anything is learnt from them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.matmul import product
from proximo.language.data.batching import right_padded
from proximo.language.models.caches import Kind
from proximo.language.models.decoder import Stack
from proximo.language.sampling.sampler import Samples, SamplingParameters, generate

TOLERANCE = 1e-3
"""Mean |log-prob of the sampler - of the trainer| up to which a load counts as right, nats. An engine that
computes in float32, as the trainer does, differs by rounding alone; one in half precision can hardly stay within it."""
_ASKED, _TOKENS = 8, 8
"""Prompts that a check asks, and tokens of each response."""


@dataclass(frozen=True)
class Source:
    """The policy's weights as they are, for a sampler to load. Valid until the sampler has answered."""

    stack: Stack
    head: nn.Linear
    version: int
    """Of the weights: another number after each update."""
    weights: Callable[[], Mapping[str, Tensor]]
    """All of them, whole, by the names that `transformers` has for the model that is trained; not to be written to."""
    cache: Kind = "dynamic"


class Sampler(Protocol):
    """What draws responses. Before it is asked it is given the weights; then it is checked."""

    @property
    def version(self) -> int | None:
        """`Source.version` of the weights that it draws from; None before the first load."""

    def load(self, source: Source) -> None:
        """Draw from these weights from now on."""

    def check(self, source: Source, prompts: Sequence[Sequence[int]], parameters: SamplingParameters) -> None:
        """Refuse to go on where what was loaded is not what `source` has.

        Args:
            source: what was loaded last.
            prompts: token ids; some of them may be responded to.
            parameters: of the responses.

        Raises:
            UserError: it is not.
        """

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        *,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """One response to each prompt.

        Args:
            prompts: token ids, at least one each.
            parameters: cap, stop ids, temperature.
            generator: what every random number has to follow from, on the CPU.
        """


class InPlace:
    """Our own sampler: it reads the trainer's weights where they are, so nothing can be stale.

    Args:
        draw: draws, see `generate`.
    """

    def __init__(self, draw: Callable[..., Samples] = generate) -> None:
        self._draw = draw
        self._source: Source | None = None

    @property
    def version(self) -> int | None:
        """See `Sampler`."""
        return None if self._source is None else self._source.version

    def load(self, source: Source) -> None:
        """See `Sampler`: nothing is copied."""
        self._source = source

    def check(self, source: Source, prompts: Sequence[Sequence[int]], parameters: SamplingParameters) -> None:
        """See `Sampler`: there is no copy to compare. How it adds up is compared in a run's first iteration."""

    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        *,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """See `generate`."""
        source = self._source
        assert source is not None, "a sampler loads before it draws"
        return self._draw(source.stack, source.head, prompts, parameters, generator=generator, cache=source.cache)


class Engine(ABC):
    """A sampler with weights of its own. Derive from it and write `load` and `__call__`; `check` is here."""

    version: int | None = None
    """See `Sampler`; `load` sets it."""

    @abstractmethod
    def load(self, source: Source) -> None:
        """See `Sampler`."""

    @abstractmethod
    def __call__(
        self,
        prompts: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        *,
        generator: torch.Generator | None = None,
    ) -> Samples:
        """See `Sampler`; `Samples.hidden` is None, and `Samples.states` empty."""

    def check(self, source: Source, prompts: Sequence[Sequence[int]], parameters: SamplingParameters) -> None:
        """See `Sampler`: a few tokens are drawn, and scored by the trainer too."""
        generator = torch.Generator().manual_seed(source.version)
        short = replace(parameters, max_tokens=min(parameters.max_tokens, _TOKENS))
        asked = prompts[:_ASKED]
        drawn = self(asked, short, generator=generator)
        theirs, ours = scored(source, asked, drawn, parameters.temperature)
        gap = float((theirs - ours).abs().mean())
        if not gap <= TOLERANCE:  # not a number is refused too
            raise UserError(
                f"the sampler was given version {source.version} of the weights, and its log-probs of {len(ours)} "
                f"tokens that it then drew are {gap:.2g} nats off the trainer's on average (at most {TOLERANCE:g}): it "
                "did not take all of the weights, or it samples otherwise than the run (temperature, cut-offs, half "
                "precision); correct its load"
            )


def checked_sampler(sampler: Any) -> Sampler:
    """A sampler as it is given from Python; our own if None.

    Raises:
        UserError: it can not be given weights.
    """
    if sampler is None:
        return InPlace()
    if isinstance(sampler, type) or not all(hasattr(sampler, name) for name in ("load", "check", "version")):
        given = f"the class {sampler.__name__}" if isinstance(sampler, type) else getattr(sampler, "__name__", sampler)
        raise UserError(
            f"sampler = {given} must be an object with `load`, `check` and `version`: wrap a function that draws from "
            "the trainer's own weights in `InPlace(...)`, or give an instance of a class derived from `Engine` (both "
            "in proximo.language.sampling.engine)"
        )
    made: Sampler = sampler
    return made


def load_checked(
    sampler: Sampler, source: Source, prompts: Sequence[Sequence[int]], parameters: SamplingParameters
) -> None:
    """Give a sampler the weights, and make sure that it has them.

    Args:
        sampler: asked for responses next.
        source: of the weights.
        prompts: that it will be asked.
        parameters: of the responses.

    Raises:
        UserError: it has not.
    """
    sampler.load(source)
    if sampler.version != source.version:
        raise UserError(
            f"the sampler was given version {source.version} of the weights and says that it has version "
            f"{sampler.version}: its `load` has to take them, and to set its version"
        )
    sampler.check(source, prompts, parameters)


@torch.no_grad()
def scored(
    source: Source, prompts: Sequence[Sequence[int]], samples: Samples, temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probs of sampled tokens, as their sampler gave them and as the trainer has them.

    Args:
        source: the trainer's weights.
        prompts: token ids.
        samples: one response to each.
        temperature: of the sampling.

    Returns:
        `(theirs, ours)`, `[n]` each, nats: of all responses' tokens, row after row.
    """
    head, device = source.head, source.head.weight.device
    responses = [row[:n] for row, n in zip(samples.tokens.tolist(), samples.lengths.tolist(), strict=True)]
    tokens, _ = right_padded([[*p, *r] for p, r in zip(prompts, responses, strict=True)])
    hidden, _ = source.stack(tokens.to(device))
    real = torch.arange(samples.tokens.shape[1], device=device) < samples.lengths.to(device).unsqueeze(1)
    rows, steps = real.nonzero(as_tuple=True)
    columns = torch.tensor([len(p) for p in prompts], device=device)[rows] - 1 + steps
    with torch.autocast(device.type, enabled=False):  # as the sampler and the loss have it
        logits = product(hidden[rows, columns].float(), head.weight.float(), head.bias)
    log_p = (logits / temperature).log_softmax(-1)
    chosen = samples.tokens.to(device)[rows, steps]
    return samples.log_probs.to(device)[rows, steps], log_p.gather(1, chosen.unsqueeze(1)).squeeze(1)
