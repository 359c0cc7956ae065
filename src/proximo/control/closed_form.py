"""The gradient of PPO's loss in closed form, for separate-MLP actor-critics on the CPU.

Autograd spends 1.0-1.6 ms on a minibatch whose arithmetic takes 0.1-0.2: these networks are so small that bookkeeping
is most of the work. Here the same loss (`core.objectives.ppo_loss`) is differentiated by hand in NumPy, on arrays that
share memory with the torch parameters and their gradients. Autograd remains the reference: a test compares both in
float64. Every policy that `supports` refuses takes the autograd path.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from proximo.control.policy import ControlPolicy
from proximo.core.batch import Action, Batch
from proximo.core.objectives import LossStatistics, Objective

_HALF_LOG_TWO_PI = 0.5 * float(np.log(2 * np.pi))


def supports(policy: ControlPolicy) -> bool:
    """Whether the closed form covers `policy`: vector observations, separate MLPs of tanh, relu or elu, no memory, and
    one Box action (clipped Gaussian) or one Discrete action with or without a mask, all on the CPU.
    """
    settings, actions = policy.settings, policy.actions
    one_part = len(actions.parts) == 1 and (
        (actions.parts[0].kind == "box" and not actions.squashed)
        or (actions.parts[0].kind == "choice" and actions.width == 1)
    )
    return (
        one_part
        and not policy.observations.images
        and settings.memory == "none"
        and not settings.shared
        and settings.activation in _SLOPES
        and next(policy.parameters()).device.type == "cpu"
    )


def _elu(x: np.ndarray, out: np.ndarray) -> np.ndarray:
    return np.maximum(x, np.expm1(np.minimum(x, 0.0)), out=out)


def _tanh_slope(y: np.ndarray) -> np.ndarray:
    slope = y * y
    return np.subtract(1.0, slope, out=slope)


_ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "tanh": np.tanh,
    "relu": lambda x, out: np.maximum(x, 0.0, out=out),
    "elu": _elu,
}
# Slopes in terms of the activation's own output y, which is at hand.
_SLOPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "tanh": _tanh_slope,
    "relu": lambda y: (y > 0).astype(y.dtype),
    "elu": lambda y: np.minimum(y, 0.0) + 1.0,
}


class _MLP:
    """Forward and backward through linear layers, on views of torch parameters."""

    def __init__(self, layers: Sequence[nn.Linear], activation: str) -> None:
        self.weights = [layer.weight.detach().numpy() for layer in layers]
        self.biases = [layer.bias.detach().numpy() for layer in layers]
        self.gradients = [(_gradient(layer.weight), _gradient(layer.bias)) for layer in layers]
        self.activate: Callable[..., np.ndarray] = _ACTIVATIONS[activation]
        self.slope = _SLOPES[activation]

    def forward(self, x: np.ndarray) -> list[np.ndarray]:
        """`[B, D]` -> the input of every layer, and last the output."""
        values = [x]
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight.T
            x += bias
            if i < last:
                x = self.activate(x, out=x)
            values.append(x)
        return values

    def backward(self, values: list[np.ndarray], error: np.ndarray) -> None:
        """Add the gradient, given dLoss/dOutput `[B, outputs]`."""
        ones = np.ones(len(error), error.dtype)
        for i in range(len(self.weights) - 1, -1, -1):
            weight_gradient, bias_gradient = self.gradients[i]
            weight_gradient += error.T @ values[i]
            bias_gradient += ones @ error  # a product with ones takes a third of the time of sum(0)
            if i:
                # For one output (the critic's head) the product is an outer one, which BLAS is slow at.
                error = error * self.weights[i] if error.shape[1] == 1 else error @ self.weights[i]
                error *= self.slope(values[i])


def _gradient(parameter: Tensor) -> np.ndarray:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad.numpy()


@dataclass
class _Scores:
    """What a head says of a minibatch's actions."""

    log_prob: np.ndarray  # [B]
    entropy: np.ndarray  # [B] or [1]


class _Head(Protocol):
    """A distribution with its derivatives."""

    def sample(self, output: np.ndarray, generator: torch.Generator | None) -> tuple[np.ndarray, np.ndarray]: ...
    def mode(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def score(self, output: np.ndarray, action: np.ndarray) -> _Scores: ...
    def backward(self, log_prob_error: np.ndarray, entropy_error: np.ndarray) -> np.ndarray: ...


class _GaussianHead:
    """log N(a; mean, std) with a state-independent log std."""

    def __init__(self, policy: ControlPolicy) -> None:
        self.log_std = policy.log_std.detach().numpy()
        self.gradient = _gradient(policy.log_std)
        self.low, self.high = policy.settings.log_std_range

    def _read(self) -> np.ndarray:
        return self.log_std.clip(self.low, self.high)

    def _log_prob(self, z: np.ndarray, log_std: np.ndarray) -> np.ndarray:
        return (-0.5 * z * z - log_std - _HALF_LOG_TWO_PI).sum(-1)

    def sample(self, output: np.ndarray, generator: torch.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        log_std = self._read()
        dtype = torch.from_numpy(log_std).dtype
        noise = torch.randn(output.shape, generator=generator, dtype=dtype).numpy()
        action = output + np.exp(log_std) * noise
        # Scored as the update will score it, not from the noise: (mean + std * noise - mean) / std rounds.
        return action, self._log_prob((action - output) * np.exp(-log_std), log_std)

    def mode(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return output, self._log_prob(np.zeros_like(output), self._read())

    def score(self, output: np.ndarray, action: np.ndarray) -> _Scores:
        log_std = self._read()
        self.inverse = np.exp(-log_std)
        self.z = (action - output) * self.inverse
        entropy = (log_std + (0.5 + _HALF_LOG_TWO_PI)).sum(keepdims=True)
        return _Scores(self._log_prob(self.z, log_std), entropy)

    def backward(self, log_prob_error: np.ndarray, entropy_error: np.ndarray) -> np.ndarray:
        # d log p / d mean = z / std;  d log p / d log_std = z^2 - 1;  d H / d log_std = 1
        error = log_prob_error[:, None] * self.z
        log_std_error = (error * self.z).sum(0) - log_prob_error.sum() + entropy_error.sum()
        # clamp passes a gradient inside its bounds, both included, and none outside.
        self.gradient += np.where((self.log_std >= self.low) & (self.log_std <= self.high), log_std_error, 0.0)
        error *= self.inverse
        return error


class _CategoricalHead:
    """log softmax(output)[a], actions `[B, 1]`."""

    def __init__(self, policy: ControlPolicy) -> None:
        del policy  # its parameters all lie in the network

    def _log_probs(self, output: np.ndarray) -> np.ndarray:
        shifted = output - output.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))

    def sample(self, output: np.ndarray, generator: torch.Generator | None) -> tuple[np.ndarray, np.ndarray]:
        log_probs = self._log_probs(output)
        race = torch.empty(output.shape, dtype=torch.from_numpy(output).dtype).exponential_(generator=generator).numpy()
        action = (np.exp(log_probs) / race).argmax(1)
        return action[:, None].astype(output.dtype), log_probs[np.arange(len(action)), action]

    def mode(self, output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        log_probs = self._log_probs(output)
        action = log_probs.argmax(1)
        return action[:, None].astype(output.dtype), log_probs[np.arange(len(action)), action]

    def score(self, output: np.ndarray, action: np.ndarray) -> _Scores:
        self.log_probs = self._log_probs(output)
        self.probs = np.exp(self.log_probs)
        self.chosen = np.arange(len(action)), action[:, 0].astype(np.int64)
        self.entropy = -(self.probs * self.log_probs).sum(1)
        return _Scores(self.log_probs[self.chosen], self.entropy)

    def backward(self, log_prob_error: np.ndarray, entropy_error: np.ndarray) -> np.ndarray:
        # d log p_a / d l_i = [i = a] - p_i;  d H / d l_i = -p_i (log p_i + H)
        error = -self.probs * log_prob_error[:, None]
        error[self.chosen] += log_prob_error
        if entropy_error.any():
            error -= self.probs * (self.log_probs + self.entropy[:, None]) * entropy_error[:, None]
        return error


class ClosedForm:
    """Acts and differentiates for a supported policy whose parameters a `FlatAdam` holds.

    Args:
        policy: one that `supports` accepts; its parameters are read and its gradients written in place.
    """

    def __init__(self, policy: ControlPolicy) -> None:
        if not supports(policy):
            raise ValueError("this policy has no closed form here; use autograd")
        network, activation = policy.network, policy.settings.activation
        hidden = [[m for m in net if isinstance(m, nn.Linear)] for net in (network.actor, network.critic)]
        self.actor = _MLP([*hidden[0], network.actor_head], activation)
        self.critic = _MLP([*hidden[1], network.value_head], activation)
        self.head: _Head = _GaussianHead(policy) if policy.actions.continuous else _CategoricalHead(policy)
        self.normalizer = policy.normalizer
        self.freeze()

    def freeze(self) -> None:
        """Read the normaliser; call it whenever the statistics have moved."""
        if self.normalizer is not None:
            dtype = self.actor.weights[0].dtype
            self._mean = self.normalizer.moments.mean.numpy().astype(dtype)
            self._scale = self.normalizer.moments.scale().numpy().astype(dtype)

    def _normalized(self, x: np.ndarray) -> np.ndarray:
        if self.normalizer is None:
            return x
        x = x - self._mean
        x /= self._scale
        return x.clip(-self.normalizer.clip, self.normalizer.clip, out=x)

    def act(
        self, inputs: Mapping[str, Tensor], memory: None = None, *, generator: torch.Generator | None = None
    ) -> Action:
        """Sample actions; as `ControlPolicy.act`, whose memory such a policy does not have."""
        x = self._normalized(inputs["vector"].numpy())
        action, log_prob = self.head.sample(_allowed(self.actor.forward(x)[-1], inputs), generator)
        value = self.critic.forward(x)[-1][:, 0]
        return Action(torch.from_numpy(action), torch.from_numpy(log_prob), torch.from_numpy(value))

    def value(self, inputs: Mapping[str, Tensor], memory: None = None) -> Tensor:
        """The critic's output; as `ControlPolicy.value`, any leading axes."""
        vector = inputs["vector"]
        x = self._normalized(vector.reshape(-1, vector.shape[-1]).numpy())
        return torch.from_numpy(self.critic.forward(x)[-1]).reshape(vector.shape[:-1])

    def gradient(self, minibatch: Batch, objective: Objective) -> LossStatistics:
        """Add the gradient of `ppo_loss` to the parameters' gradients (a `core.update.Gradient`)."""
        x = self._normalized(minibatch.inputs["vector"].numpy())
        share, real = _shares(minibatch.weight.numpy())
        actor = self.actor.forward(x)
        critic = self.critic.forward(x)
        scores = self.head.score(_allowed(actor[-1], minibatch.inputs), minibatch.action.numpy())
        policy_error, policy = _surrogate(scores.log_prob, minibatch, objective, share, real)
        value_error, value = _value(critic[-1][:, 0], minibatch, objective, share)
        entropy_error = -objective.entropy_coefficient * share
        self.actor.backward(actor, self.head.backward(policy_error, entropy_error))
        self.critic.backward(critic, value_error[:, None])
        entropy = float((scores.entropy * share).sum())
        return LossStatistics(policy[0], value, entropy, *policy[1:])  # type: ignore[arg-type]


def _allowed(logits: np.ndarray, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """The logits with forbidden choices at probability 0, hence without a gradient; a Box has no mask."""
    mask = inputs.get("mask")
    return logits if mask is None else np.where(mask.numpy(), logits, np.finfo(logits.dtype).min)


def _shares(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Each sample's share of the mean, and where weights are positive (None = everywhere)."""
    share = weight / max(float(weight.sum()), float(np.finfo(weight.dtype).tiny))
    return share, None if weight.min() > 0 else weight > 0


def _surrogate(
    log_prob: np.ndarray, minibatch: Batch, objective: Objective, share: np.ndarray, real: np.ndarray | None
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """DLoss/dlog_prob `[B]`; loss, approx KL, clip fraction, ratio deviation."""
    advantages = minibatch.advantages.numpy()
    log_ratio = log_prob - minibatch.log_prob.numpy()
    if real is not None:  # a sample of weight 0 may hold anything
        advantages, log_ratio = np.where(real, advantages, 0.0), np.where(real, log_ratio, 0.0)
    ratio = np.exp(log_ratio)
    gain = ratio * advantages
    slope = gain.copy()  # d (ratio * A) / d log_prob = ratio * A
    clip_fraction = 0.0
    deviation = np.abs(ratio - 1.0)
    if objective.clip is not None:
        clipped = ratio.clip(1 - objective.clip, 1 + objective.clip) * advantages
        slope[clipped < gain] = 0.0
        gain = np.minimum(gain, clipped)
        clip_fraction = float(((deviation > objective.clip) * share).sum())
    if objective.dual_clip is not None:
        floor = objective.dual_clip * advantages
        floored = (advantages < 0) & (floor > gain)
        gain, slope = np.where(floored, floor, gain), np.where(floored, 0.0, slope)
    slope *= -share
    approx_kl = float(((np.expm1(log_ratio) - log_ratio).clip(0.0) * share).sum())
    return slope, (-float((gain * share).sum()), approx_kl, clip_fraction, float(deviation.max()))


def _value(values: np.ndarray, minibatch: Batch, objective: Objective, share: np.ndarray) -> tuple[np.ndarray, float]:
    """DLoss/dvalue `[B]` (coefficient included) and the value loss."""
    returns = np.where(share > 0, minibatch.returns.numpy(), values)
    error = values - returns
    squared = error * error
    if objective.value_clip is not None:
        old = np.where(share > 0, minibatch.value.numpy(), values)
        move = values - old
        clipped_error = old + move.clip(-objective.value_clip, objective.value_clip) - returns
        clipped = clipped_error * clipped_error
        # Where the clipped error is the larger and the clip is active, the value's own slope is gone.
        error = np.where((clipped > squared) & (np.abs(move) > objective.value_clip), 0.0, error)
        squared = np.maximum(squared, clipped)
    return (objective.value_coefficient * share) * error, 0.5 * float((squared * share).sum())
