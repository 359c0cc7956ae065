"""What a policy head emits. Shapes: parameters `[..., n]`; log-probs, entropies and divergences `[...]`, in nats."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from functools import cache, reduce
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
_LOG_TWO = math.log(2.0)


class Distribution(ABC):
    """A distribution over actions, one for each leading index of its parameters."""

    made_of: ClassVar[tuple[str, ...]] = ()
    """Attributes that it follows from: tensors with its leading axes, or None."""
    event_size: int | None
    """Length of an action's last axis; None where an action is a single number without such an axis."""

    @abstractmethod
    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One action for each leading index; no gradient."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The deterministic action: the most probable one (for a squashed Gaussian, of the Gaussian inside; for a Beta
        the mean).
        """

    @abstractmethod
    def log_prob(self, action: Tensor) -> Tensor:
        """Log-probability (density) of `action`, in nats, summed over the action's own axis."""

    @abstractmethod
    def entropy(self) -> Tensor:
        """Entropy (differential where the action is continuous), in nats."""

    @abstractmethod
    def kl(self, other: "Distribution") -> Tensor:
        """Exact KL(self, other), in nats, of two distributions of the same kind.

        Raises:
            TypeError: `other` is of another kind.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What it is made of, by name, each `[..., n]`; empty where it can not be told."""
        return {name: x for name in self.made_of if (x := getattr(self, name)) is not None}

    def like(self, tensors: Mapping[str, Tensor]) -> Self:
        """One of the same kind that is made of other tensors, which `tensors` gave."""
        made = copy(self)
        for name in self.made_of:
            setattr(made, name, tensors.get(name))
        return made

    def _require_same_kind(self, other: "Distribution") -> None:
        if type(other) is not type(self):
            raise TypeError(f"KL of a {type(self).__name__} to a {type(other).__name__} has no closed form here")


class Categorical(Distribution):
    """Choice among n, from logits `[..., n]`; actions are integers `[...]`.

    `mask` (bool, broadcastable to the logits; False = forbidden) removes choices: their probability is exactly 0
    and the entropy is that of the rest (Huang & Ontañón 2022, arXiv 2006.14171). A row needs one allowed choice.
    """

    event_size = None
    made_of = ("log_probs", "mask")

    def __init__(self, logits: Tensor, mask: Tensor | None = None) -> None:
        # finfo.min, not -inf: the softmax of a row stays finite even before its mask is checked.
        masked = logits if mask is None else logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
        self.mask = mask
        self.log_probs = functional.log_softmax(masked, -1)
        """`[..., n]`, log-probability of each choice; not to be read where masked."""

    @property
    def probs(self) -> Tensor:
        """`[..., n]`, exactly 0 where masked."""
        return self.log_probs.exp()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Exponential race: argmax p_i / e_i with e_i ~ Exp(1) falls on i with probability p_i."""
        with torch.no_grad():
            probs = self.probs
            return (probs / torch.empty_like(probs).exponential_(generator=generator)).argmax(-1)

    def mode(self) -> Tensor:
        """The most probable choice, `[...]`."""
        return self.log_probs.argmax(-1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Log p(action); `action` is `[...]`, of any type that holds integers."""
        return self.log_probs.gather(-1, action.long().unsqueeze(-1)).squeeze(-1)

    def _over_allowed(self, terms: Tensor) -> Tensor:
        return (terms if self.mask is None else torch.where(self.mask, terms, 0.0)).sum(-1)

    def entropy(self) -> Tensor:
        """-sum p log p over the allowed choices."""
        return -self._over_allowed(self.probs * self.log_probs)

    def kl(self, other: Distribution) -> Tensor:
        """Sum p (log p - log q) over the choices that self allows."""
        self._require_same_kind(other)
        assert isinstance(other, Categorical)
        return self._over_allowed(self.probs * (self.log_probs - other.log_probs))


class Bernoulli(Distribution):
    """Independent switches, from logits `[..., n]`; actions are 0 or 1, `[..., n]`."""

    made_of = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits
        self.event_size = logits.shape[-1]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """0 or 1 for each switch, in the type of the logits."""
        with torch.no_grad():
            return torch.bernoulli(torch.sigmoid(self.logits), generator=generator)

    def mode(self) -> Tensor:
        """1 where the probability is above one half."""
        return (self.logits > 0).to(self.logits.dtype)

    def log_prob(self, action: Tensor) -> Tensor:
        """Sum over the switches of log p or log (1 - p)."""
        return -functional.binary_cross_entropy_with_logits(
            self.logits, action.to(self.logits.dtype), reduction="none"
        ).sum(-1)

    def entropy(self) -> Tensor:
        """Sum over the switches; H = softplus(-|l|) + |l| * sigmoid(-|l|) stays exact where p is near 0 or 1."""
        away = self.logits.abs()
        return (functional.softplus(-away) + away * torch.sigmoid(-away)).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        """Sum over the switches of p (log p - log q) + (1 - p) (log (1 - p) - log (1 - q))."""
        self._require_same_kind(other)
        assert isinstance(other, Bernoulli)
        difference = self.logits - other.logits
        terms = (
            torch.sigmoid(self.logits) * difference
            - functional.softplus(self.logits)
            + functional.softplus(other.logits)
        )
        return terms.sum(-1)


class Gaussian(Distribution):
    """Independent normals, from mean and log standard deviation, `[..., d]` (the latter may broadcast)."""

    made_of = ("mean", "log_std")

    def __init__(self, mean: Tensor, log_std: Tensor) -> None:
        self.mean = mean
        self.log_std = log_std.expand_as(mean)
        self.event_size = mean.shape[-1]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Mean + std * noise, `[..., d]`, unclipped."""
        with torch.no_grad():
            noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device)
            return self.mean + self.log_std.exp() * noise

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean

    def log_prob(self, action: Tensor) -> Tensor:
        """Sum over d of -z^2 / 2 - log std - log(2 pi) / 2, z = (action - mean) / std."""
        z = (action - self.mean) * torch.exp(-self.log_std)
        return (-0.5 * z**2 - self.log_std - _HALF_LOG_TWO_PI).sum(-1)

    def entropy(self) -> Tensor:
        """Sum over d of log std + (1 + log(2 pi)) / 2."""
        return (self.log_std + 0.5 + _HALF_LOG_TWO_PI).sum(-1)

    def kl(self, other: Distribution) -> Tensor:
        """Sum over d of log(s2/s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2."""
        self._require_same_kind(other)
        assert isinstance(other, Gaussian)
        gap = other.log_std - self.log_std
        distance = ((self.mean - other.mean) * torch.exp(-other.log_std)) ** 2
        return (gap + 0.5 * (torch.exp(-2 * gap) + distance) - 0.5).sum(-1)


@cache  # made once: a CUDA graph can not hold a copy from the host
def _quadrature(dtype: torch.dtype, device: torch.device, nodes: int = 24) -> tuple[Tensor, Tensor]:
    """Gauss-Hermite nodes and weights for the mean under a standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.as_tensor(x).to(device, dtype), torch.as_tensor(w / w.sum()).to(device, dtype)


def log_tanh_slope(u: Tensor) -> Tensor:
    """log(1 - tanh(u)^2), exact for any u: 2 (log 2 - u - softplus(-2 u))."""
    return 2.0 * (_LOG_TWO - u - functional.softplus(-2.0 * u))


class SquashedGaussian(Gaussian):
    """tanh of a Gaussian: actions inside (-1, 1) with the log-prob of the squashed variable.

    `sample`, `mode` and `log_prob` speak of u, the value before tanh: it is what a rollout stores, because atanh of a
    saturated float32 is infinite. tanh(u) is the action. log_prob(u) is the density of tanh(u):
    log N(u) - sum log(1 - tanh(u)^2) (Haarnoja et al. 2018, arXiv 1801.01290, appendix C).
    """

    def log_prob(self, action: Tensor) -> Tensor:
        """Log-density of tanh(action), `action` being the value before tanh."""
        return super().log_prob(action) - log_tanh_slope(action).sum(-1)

    def entropy(self) -> Tensor:
        """Gaussian entropy + E[log(1 - tanh(u)^2)]; no closed form, so a 24-node Gauss-Hermite quadrature.

        Differentiable and free of sampling noise; the error is below 1e-3 nats for std up to 1 and 0.03 up to 3.
        """
        x, w = _quadrature(self.mean.dtype, self.mean.device)
        u = self.mean.unsqueeze(-1) + self.log_std.exp().unsqueeze(-1) * x
        return super().entropy() + (log_tanh_slope(u) * w).sum(-1).sum(-1)

    # KL is unchanged by a bijection applied to both sides, so the Gaussian's own holds.


class Product(Distribution):
    """Independent parts side by side, for MultiDiscrete, Tuple and Dict actions.

    An action is one tensor `[..., width]`: each part takes `event_size` columns, or one where it has no axis of its
    own. Log-probs, entropies and divergences are sums over the parts.
    """

    def __init__(self, parts: Sequence[Distribution]) -> None:
        self.parts = list(parts)
        self.event_size = sum(part.event_size or 1 for part in self.parts)

    def tensors(self) -> dict[str, Tensor]:
        """Those of the parts, as `0.mean`; empty where one can not tell its own."""
        told = [part.tensors() for part in self.parts]
        return {f"{i}.{name}": x for i, each in enumerate(told) for name, x in each.items()} if all(told) else {}

    def like(self, tensors: Mapping[str, Tensor]) -> Self:
        """See `Distribution.like`."""
        own: list[dict[str, Tensor]] = [{} for _ in self.parts]
        for key, x in tensors.items():
            i, _, name = key.partition(".")
            own[int(i)][name] = x
        made = copy(self)
        made.parts = [part.like(each) for part, each in zip(self.parts, own, strict=True)]
        return made

    def _join(self, actions: Sequence[Tensor]) -> Tensor:
        columns = [a.unsqueeze(-1) if p.event_size is None else a for p, a in zip(self.parts, actions, strict=True)]
        dtype = reduce(torch.promote_types, (column.dtype for column in columns), torch.get_default_dtype())
        return torch.cat([column.to(dtype) for column in columns], -1)

    def _split(self, action: Tensor) -> list[Tensor]:
        columns = action.split([part.event_size or 1 for part in self.parts], -1)
        return [c.squeeze(-1) if p.event_size is None else c for p, c in zip(self.parts, columns, strict=True)]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """`[..., width]`, floating point; whole numbers where the part is a choice."""
        return self._join([part.sample(generator) for part in self.parts])

    def mode(self) -> Tensor:
        """The mode of each part, `[..., width]`."""
        return self._join([part.mode() for part in self.parts])

    def log_prob(self, action: Tensor) -> Tensor:
        """Sum over the parts."""
        return torch.stack([p.log_prob(a) for p, a in zip(self.parts, self._split(action), strict=True)]).sum(0)

    def entropy(self) -> Tensor:
        """Sum over the parts."""
        return torch.stack([part.entropy() for part in self.parts]).sum(0)

    def kl(self, other: Distribution) -> Tensor:
        """Sum over the parts, each against its counterpart."""
        self._require_same_kind(other)
        assert isinstance(other, Product)
        return torch.stack([p.kl(q) for p, q in zip(self.parts, other.parts, strict=True)]).sum(0)


def parts_of(distribution: Distribution) -> list[Distribution]:
    """The parts of a product; else the distribution itself."""
    return distribution.parts if isinstance(distribution, Product) else [distribution]
