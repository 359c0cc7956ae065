"""Beta distributions over bounded actions (Chou, Maturana & Scherer 2017, "Improving stochastic policy gradients")."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from proximo.core.distributions import Distribution

_LOG_TWO = math.log(2.0)


class Beta(Distribution):
    """Independent Betas, stretched from [0, 1] to [-1, 1]; nothing is clipped, so no probability is lost at a bound.

    Args:
        above_one: alpha - 1 and beta - 1 side by side, `[..., 2 d]`, not negative: each density then has one peak
            (Chou et al. 2017, section 4).
    """

    made_of = ("first", "second")

    def __init__(self, above_one: Tensor) -> None:
        self.first, self.second = (x.contiguous() for x in above_one.chunk(2, -1))
        self.event_size = self.first.shape[-1]

    @classmethod
    def of_outputs(cls, outputs: Tensor) -> "Beta":
        """From a network's outputs `[..., 2 d]`: alpha and beta are 1 + softplus (Chou et al. 2017, section 4)."""
        return cls(functional.softplus(outputs))

    def _exact(self) -> tuple[Tensor, Tensor, Tensor]:
        """Alpha, beta and log B(alpha, beta), in float64: log B is a small difference of large numbers."""
        alpha, beta = self.first.double() + 1.0, self.second.double() + 1.0
        return alpha, beta, torch.lgamma(alpha) + torch.lgamma(beta) - torch.lgamma(alpha + beta)

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """X / (X + Y) of gammas, `[..., d]`, stretched; a few roundings away from the bounds, where densities end."""
        with torch.no_grad():
            x, y = (torch._standard_gamma(1.0 + each, generator=generator) for each in (self.first, self.second))
            bound = 1.0 - 8.0 * torch.finfo(x.dtype).eps
            return (2.0 * x / (x + y) - 1.0).clamp(-bound, bound)

    def mode(self) -> Tensor:
        """The mean, `[..., d]`: what is most probable lies at a bound where beta is about 1, however far from it the
        actions are that are drawn (with alpha = 5 they are at 2/3 on average).
        """
        return (self.first - self.second) / (self.first + self.second + 2.0)

    def log_prob(self, action: Tensor) -> Tensor:
        """Sum over d of (alpha - 1) log x + (beta - 1) log(1 - x) - log B - log 2, x = (1 + action) / 2."""
        alpha, beta, log_b = self._exact()
        x = 0.5 * (1.0 + action.double())
        terms = (alpha - 1) * x.log() + (beta - 1) * torch.log1p(-x)
        return (terms - log_b - _LOG_TWO).sum(-1).to(self.first)

    def entropy(self) -> Tensor:
        """Sum over d of log B - (a - 1) psi(a) - (b - 1) psi(b) + (a + b - 2) psi(a + b) + log 2."""
        alpha, beta, log_b = self._exact()
        terms = log_b - (alpha - 1) * torch.digamma(alpha) - (beta - 1) * torch.digamma(beta)
        return (terms + (alpha + beta - 2) * torch.digamma(alpha + beta) + _LOG_TWO).sum(-1).to(self.first)

    def kl(self, other: Distribution) -> Tensor:
        """Sum over d of log B' - log B + (a - a') psi(a) + (b - b') psi(b) - (a - a' + b - b') psi(a + b)."""
        self._require_same_kind(other)
        assert isinstance(other, Beta)
        (alpha, beta, log_b), (a, b, their_log_b) = self._exact(), other._exact()
        terms = their_log_b - log_b + (alpha - a) * torch.digamma(alpha) + (beta - b) * torch.digamma(beta)
        return (terms - (alpha - a + beta - b) * torch.digamma(alpha + beta)).sum(-1).to(self.first)

    @property
    def log_std(self) -> Tensor:
        """Of the actions, `[..., d]`."""
        alpha, beta = self.first + 1.0, self.second + 1.0
        whole = alpha + beta
        return _LOG_TWO + 0.5 * (alpha.log() + beta.log() - torch.log1p(whole)) - whole.log()
