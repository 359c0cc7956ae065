"""Distributions with their derivatives, in NumPy; the batch is the last axis."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from proximo.control.closed_form.networks import gradient
from proximo.control.models.policy import ControlPolicy

_HALF_LOG_TWO_PI = 0.5 * float(np.log(2 * np.pi))


@dataclass
class Scores:
    """What a head says of a minibatch's actions."""

    log_prob: np.ndarray  # [B]
    entropy: np.ndarray  # [B] or [1]


class Head(Protocol):
    """What the closed form asks of a distribution; outputs are `[outputs, B]`, actions `[B, width]`."""

    def draw(self, output: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
        """Actions `[B, width]`."""

    def score(self, output: np.ndarray, action: np.ndarray) -> Scores:
        """Log-probs and entropies; remembers what `backward` needs."""

    def tensors(self, output: np.ndarray) -> dict[str, torch.Tensor]:
        """What the distributions are made of, each `[B, ...]`, as `divergence` takes it of old ones."""

    def divergence(self, old: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Exact KL(old, now) `[B]` of what was scored last, from what the old distributions are made of."""

    def backward(self, log_prob_error: np.ndarray, entropy_error: np.ndarray) -> np.ndarray:
        """DLoss/dOutput from dLoss/dlog_prob and dLoss/dentropy, each `[B]`; adds the gradient of own parameters."""


class GaussianHead:
    """log N(a; mean, std) with a deviation that is the same in all states (`control.models.noise`)."""

    def __init__(self, policy: ControlPolicy, own: Callable[[torch.Tensor], torch.Tensor] = gradient) -> None:
        numbers, self.kind = policy.noise_numbers, policy.noise.kind
        self.numbers, self.dtype = numbers.detach().numpy(), numbers.dtype
        self.gradient = None if self.kind == "fixed" else own(numbers).numpy()
        self.low, self.high = policy.noise.bounds
        self.columns = policy.actions.continuous

    def _read(self) -> np.ndarray:
        """Log standard deviations, `[d]`."""
        held = np.minimum(np.maximum(self.numbers, self.low), self.high)
        return np.log(held) if self.kind == "scalar" else np.broadcast_to(held, self.columns)

    def _learn(self, error: np.ndarray) -> None:
        """Add the gradient of what is learnt, from dLoss/dlog_std `[d]`."""
        if self.gradient is None:
            return
        if self.kind == "scalar":
            error = error / np.minimum(np.maximum(self.numbers, self.low), self.high)
        elif self.kind == "shared":
            error = np.add.reduce(error, keepdims=True)
        # clamp passes a gradient inside its bounds, both included, and none outside.
        self.gradient += np.where((self.numbers >= self.low) & (self.numbers <= self.high), error, 0.0)

    def draw(self, output: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
        """Mean + std * noise."""
        action: np.ndarray = torch.randn(output.shape[::-1], generator=generator, dtype=self.dtype).numpy()
        action *= np.exp(self._read())
        action += output.T
        return action

    def score(self, output: np.ndarray, action: np.ndarray) -> Scores:
        """Log p = -sum(z^2) / 2 - sum(log std + log(2 pi) / 2), z = (a - mean) / std.

        H = sum(log std + (1 + log(2 pi)) / 2).
        """
        self.mean, self.log_std = output, log_std = output, self._read()
        total = np.add.reduce(log_std)
        self.inverse = np.exp(-log_std)[:, None]
        self.z = action.T - output
        self.z *= self.inverse
        log_prob = np.add.reduce(self.z * self.z, 0)
        log_prob *= -0.5
        log_prob -= total + len(log_std) * _HALF_LOG_TWO_PI
        return Scores(log_prob, np.array([total + len(log_std) * (0.5 + _HALF_LOG_TWO_PI)], log_prob.dtype))

    def tensors(self, output: np.ndarray) -> dict[str, torch.Tensor]:
        """See `Head`; copies, since learning moves the deviations."""
        mean, log_std = np.ascontiguousarray(output.T), self._read()
        return {"mean": torch.from_numpy(mean), "log_std": torch.from_numpy(np.tile(log_std, (len(mean), 1)))}

    def divergence(self, old: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Sum over d of log(s2/s1) + (s1^2 + (m1 - m2)^2) / (2 s2^2) - 1/2."""
        gap = self.log_std[:, None] - old["log_std"].numpy().T
        distance = (old["mean"].numpy().T - self.mean) * self.inverse
        return np.add.reduce(gap + 0.5 * (np.exp(-2.0 * gap) + distance * distance) - 0.5, 0)

    def backward(self, log_prob_error: np.ndarray, entropy_error: np.ndarray) -> np.ndarray:
        """D log p / d mean = z / std;  d log p / d log_std = z^2 - 1;  d H / d log_std = 1."""
        error = log_prob_error * self.z
        self._learn(np.add.reduce(error * self.z, 1) - np.add.reduce(log_prob_error - entropy_error))
        error *= self.inverse
        return error


_MANY = 1000  # choices


class CategoricalHead:
    """log softmax(output)[a], actions `[B, 1]`."""

    def __init__(self, policy: ControlPolicy, own: Callable[[torch.Tensor], torch.Tensor] = gradient) -> None:
        del policy, own  # its parameters all lie in the network

    def _log_probs(self, output: np.ndarray) -> np.ndarray:
        shifted = output - output.max(0)
        # Down an axis NumPy adds one after the other, which would be seen in the ratio of a hundred thousand choices.
        shifted -= np.log(np.exp(shifted).sum(0, dtype=np.float64 if len(shifted) > _MANY else None))
        return shifted

    def draw(self, output: np.ndarray, generator: torch.Generator | None) -> np.ndarray:
        """A race of exponential clocks, whose first is choice i with probability p_i."""
        log_probs = self._log_probs(output)
        race = torch.empty(output.shape[::-1], dtype=torch.from_numpy(output).dtype).exponential_(generator=generator)
        action = (np.exp(log_probs).T / race.numpy()).argmax(1)
        return action[:, None].astype(output.dtype)

    def score(self, output: np.ndarray, action: np.ndarray) -> Scores:
        """Log p_a and -sum p log p."""
        self.log_probs = self._log_probs(output)
        self.probs = np.exp(self.log_probs)
        self.chosen = action[:, 0].astype(np.int64), np.arange(len(action))
        self.entropy = -(self.probs * self.log_probs).sum(0)
        return Scores(self.log_probs[self.chosen], self.entropy)

    def tensors(self, output: np.ndarray) -> dict[str, torch.Tensor]:
        """See `Head`."""
        return {"0.log_probs": torch.from_numpy(np.ascontiguousarray(self._log_probs(output).T))}

    def divergence(self, old: Mapping[str, torch.Tensor]) -> np.ndarray:
        """Sum p (log p - log q), nothing where p is 0."""
        log_probs = old["0.log_probs"].numpy().T
        probs = np.exp(log_probs)
        return np.add.reduce(np.where(probs > 0, probs * (log_probs - self.log_probs), 0.0), 0)

    def backward(self, log_prob_error: np.ndarray, entropy_error: np.ndarray) -> np.ndarray:
        """D log p_a / d l_i = [i = a] - p_i;  d H / d l_i = -p_i (log p_i + H)."""
        error = self.probs * -log_prob_error
        error[self.chosen] += log_prob_error
        if entropy_error.any():
            error -= self.probs * (self.log_probs + self.entropy) * entropy_error
        return error
