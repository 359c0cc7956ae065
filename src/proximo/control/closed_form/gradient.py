"""The gradient of PPO's loss in closed form, for separate-MLP actor-critics on the CPU.

Autograd spends 1.0-1.6 ms on a minibatch whose arithmetic takes 0.1-0.2: these networks are so small that bookkeeping
is most of the work. Here the same loss (`core.objectives.ppo_loss`) is differentiated by hand in NumPy, on arrays that
share memory with the torch parameters and their gradients. Autograd remains the reference: a test compares both in
float64. Every policy that `supports` refuses takes the autograd path.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from proximo.control.closed_form.derivation import is_derivable
from proximo.control.closed_form.heads import CategoricalHead, GaussianHead, Head
from proximo.control.closed_form.networks import ACTIVATE, BY_TORCH, TwinMLP, aligned_copy
from proximo.control.closed_form.parts import Parts, Worker
from proximo.control.models.networks import ActorCritic
from proximo.control.models.normalizers import ObservationNormalizer
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.groups import CRITIC
from proximo.core.batch import Action, Batch
from proximo.core.objectives import Objective
from proximo.core.updates.exact_kl import NAME as EXACT
from proximo.core.updates.update import Gradient, Statistics


def supports(policy: ControlPolicy) -> bool:
    """Whether the closed form covers `policy`: vector observations, separate MLPs of tanh, relu or elu, no memory, and
    one Box action (clipped Gaussian, whose deviation is the same in all states) or one Discrete action with or without
    a mask, all on the CPU; and everything that takes part, loss included, is what it was derived from
    (`is_derivable`).
    """
    settings, actions = policy.settings, policy.actions
    one_part = len(actions.parts) == 1 and (
        (actions.parts[0].kind == "box" and not actions.squashed)
        or (actions.parts[0].kind == "choice" and actions.width == 1)
    )
    return (
        one_part
        and not policy.noise.of_state
        and not policy.actions.beta
        and not policy.observations.images
        and not (policy.critic_observations and policy.critic_observations.images)
        and settings.memory == "none"
        and not settings.shared
        and settings.activation in ACTIVATE
        and next(policy.parameters()).device.type == "cpu"
        and is_derivable(policy)
    )


# A step far too large leaves numbers that are not finite: whoever asked checks what comes out, and says it in one
# sentence instead of NumPy's many.
_UNWARNED = np.errstate(over="ignore", invalid="ignore")


class ClosedForm:
    """Acts and differentiates for a supported policy.

    Args:
        policy: one that `supports` accepts, its `parameters_by_layer` held by a `FlatAdam`; parameters are read and
            gradients written in place.
        threads: that large minibatches are shared by; which number changes no bit.

    Raises:
        ValueError: the policy has no closed form, or its parameters lie elsewhere.
    """

    def __init__(self, policy: ControlPolicy, threads: int = 1) -> None:
        if not supports(policy):
            raise ValueError("this policy has no closed form here; use autograd")
        network, activation = policy.network, policy.settings.activation
        assert isinstance(network, ActorCritic)
        layers = [[m for m in net if isinstance(m, nn.Linear)] for net in (network.actor, network.critic)]
        actor, critic = [*layers[0], network.actor_head], [*layers[1], network.value_head]
        kind = GaussianHead if policy.actions.continuous else CategoricalHead
        self.networks = TwinMLP(actor, critic, activation)
        self.head: Head = kind(policy)

        def worker(own: Callable[[Tensor], Tensor]) -> Worker:
            return Worker(TwinMLP(actor, critic, activation, own, BY_TORCH), kind(policy, own))

        hidden = sum(weight[0].shape[0] + weight[1].shape[0] for weight in self.networks.weights)
        self._parts = Parts(worker, policy.parameters_by_layer(), hidden * self.networks.dtype.itemsize, threads)
        self._actor = _Seen("vector", policy.normalizer, self.networks.dtype)
        own = policy.critic_observations is not None
        self._critic = _Seen(f"{CRITIC}vector", policy.critic_normalizer, self.networks.dtype) if own else self._actor
        self._policy, self._modules = policy, list(policy.modules())
        self.freeze()

    @property
    def holds(self) -> bool:
        """Whether the policy and the loss are still what they were when the arrays were taken from them."""
        return supports(self._policy) and list(self._policy.modules()) == self._modules

    def freeze(self) -> None:
        """Read the normalisers; call it whenever the statistics have moved."""
        self._actor.freeze()
        self._critic.freeze()

    @_UNWARNED
    def act(
        self,
        inputs: Mapping[str, Tensor],
        memory: None = None,
        *,
        generator: torch.Generator | None = None,
        noise: None = None,
    ) -> Action:
        """Sample actions; as `ControlPolicy.act`, without log-prob and value: `log_prob` and `value` take a whole
        rollout at once, which saves most of their time.
        """
        output = self._output(inputs)
        action = torch.from_numpy(self.head.draw(output, generator))
        return Action(action, None, None, output=torch.from_numpy(output.T))

    @_UNWARNED
    def log_prob(self, output: Tensor, action: Tensor) -> Tensor:
        """As `ControlPolicy.log_prob`, any leading axes."""
        outputs, actions = (x.reshape(-1, x.shape[-1]).numpy() for x in (output, action))
        return torch.from_numpy(self.head.score(outputs.T, actions).log_prob).reshape(action.shape[:-1])

    @_UNWARNED
    def value(self, inputs: Mapping[str, Tensor], memory: None = None) -> Tensor:
        """The critic's output; as `ControlPolicy.value`, any leading axes."""
        shape = inputs["vector"].shape[:-1]
        seen = _flat(inputs)
        if not self._parts.worthwhile(shape.numel()):
            values = self.networks.critic(self._critic.of(seen))[0]
        else:
            values = np.concatenate(
                self._parts.each(
                    shape.numel(),
                    lambda worker, rows: worker.networks.critic(aligned_copy(self._critic.of(seen, rows)))[0],
                )
            )
        return torch.from_numpy(values).reshape(shape)

    def _output(self, inputs: Mapping[str, Tensor]) -> np.ndarray:
        """The head's outputs for `[B]` observations, `[outputs, B]`."""
        samples = len(inputs[self._actor.name])
        if not self._parts.worthwhile(samples):
            return _allowed(self.networks.actor(self._actor.of(inputs)), inputs)
        told = self._parts.each(
            samples, lambda worker, rows: worker.networks.actor(aligned_copy(self._actor.of(inputs, rows)))
        )
        return _allowed(np.concatenate(told, 1), inputs)

    @_UNWARNED
    def divergence(self, minibatch: Batch) -> float:
        """k3 estimate of KL(old policy, policy), nats (`core.updates.update.Measuring`)."""
        share, real = _shares(minibatch)
        log_prob = self.head.score(self._output(minibatch.inputs), minibatch.action.numpy()).log_prob
        log_ratio = log_prob - minibatch.log_prob.numpy()
        return _kl(log_ratio if real is None else np.where(real, log_ratio, 0.0), share)

    @_UNWARNED
    def tensors(self, batch: Batch) -> dict[str, Tensor]:
        """See `core.updates.update.ClosedFormGradient`."""
        return self.head.tensors(self._output(batch.inputs))

    def at(self, objective: Objective) -> Gradient:
        """See `core.updates.update.ClosedFormGradient`."""
        return _At(self, objective)

    @_UNWARNED
    def gradient(self, minibatch: Batch, objective: Objective) -> Statistics:
        """Add the gradient of `ppo_loss` to the parameters' gradients; statistics as `ppo_loss` names them."""
        if not self._parts.worthwhile(len(minibatch)):
            return self._gradient(self.networks, self.head, minibatch, objective)
        total = minibatch.weight.sum() if minibatch.total_weight is None else minibatch.total_weight

        def one(worker: Worker, rows: slice) -> dict[str, float]:
            part = replace(minibatch[rows], total_weight=total)
            return self._gradient(worker.networks, worker.head, part, objective, aligned_copy)

        told = self._parts.add(len(minibatch), one)
        sums = {name: sum(row[name] for row in told) for name in told[0]}
        return sums | {"ratio_deviation": max(row["ratio_deviation"] for row in told)}

    def _gradient(
        self,
        networks: TwinMLP,
        head: Head,
        minibatch: Batch,
        objective: Objective,
        copied: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    ) -> dict[str, float]:
        """See `gradient`: of a minibatch, or of a part of one."""
        seen = copied(self._actor.of(minibatch.inputs))
        x = seen, seen if self._critic is self._actor else copied(self._critic.of(minibatch.inputs))
        share, real = _shares(minibatch)
        hidden, output, values = networks.forward(x)
        scores = head.score(_allowed(output, minibatch.inputs), minibatch.action.numpy())
        exact = {EXACT: _exact(head.divergence(minibatch.old), share, real)} if minibatch.old else {}
        policy_error, policy = _surrogate(scores.log_prob, minibatch, objective, share, real)
        value_error, value = _value(values, minibatch, objective, share, real)
        entropy_error = -objective.entropy_coefficient * share
        errors = head.backward(policy_error, entropy_error), value_error[None]
        networks.backward(x, hidden, errors)
        entropy = float(np.add.reduce(scores.entropy * share))
        return {
            **exact,
            "policy_loss": policy[0],
            "value_loss": value,
            "entropy": entropy,
            "approx_kl": policy[1],
            "clip_fraction": policy[2],
            "ratio_deviation": policy[3],
        }


class _Seen:
    """What one of the networks reads, in NumPy."""

    def __init__(self, name: str, normalizer: ObservationNormalizer | None, dtype: np.dtype) -> None:
        self.name, self.normalizer, self.dtype = name, normalizer, dtype

    def freeze(self) -> None:
        """Read the normaliser."""
        if self.normalizer is not None:
            self._far = self.normalizer.far
            self._mean = self.normalizer.moments.mean.numpy().astype(self.dtype)[:, None]
            self._scale = self.normalizer.moments.scale().numpy().astype(self.dtype)[:, None]

    def of(self, inputs: Mapping[str, Tensor], rows: slice = slice(None)) -> np.ndarray:
        """What the network reads of `[B, D]`, of those rows: normalised, `[D, B]`."""
        x = inputs[self.name].numpy()[rows].T
        if self.normalizer is None:
            return x
        bound = self.normalizer.clip
        if x.dtype != self.dtype:
            if self._far:  # the mean is taken off before digits are
                moments = self.normalizer.moments
                x = (x - moments.mean.numpy()[:, None]) / moments.scale().numpy()[:, None]
                return np.ascontiguousarray(x.clip(-bound, bound), self.dtype)
            x = x.astype(self.dtype)
        x = np.subtract(x, self._mean, order="C")
        x /= self._scale
        return np.minimum(np.maximum(x, -bound, out=x), bound, out=x)


@dataclass(frozen=True)
class _At:
    """The closed form with an objective's numbers: a `core.updates.update.Gradient` that is `Measuring`."""

    closed_form: ClosedForm
    objective: Objective

    def __call__(self, minibatch: Batch) -> Statistics:
        return self.closed_form.gradient(minibatch, self.objective)

    def divergence(self, minibatch: Batch) -> float:
        return self.closed_form.divergence(minibatch)


def _flat(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With one leading axis."""
    return {name: x.reshape(-1, x.shape[-1]) for name, x in inputs.items()}


def _allowed(logits: np.ndarray, inputs: Mapping[str, Tensor]) -> np.ndarray:
    """The logits with forbidden choices at probability 0, hence without a gradient; a Box has no mask."""
    mask = inputs.get("mask")
    return logits if mask is None else np.where(mask.numpy().T, logits, np.finfo(logits.dtype).min)


def _shares(minibatch: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """Each sample's share of the mean, and where weights are positive (None = everywhere)."""
    # ufunc.reduce and, below, dot products: a fraction of the time of the methods .sum and .min on arrays this small.
    weight, whole = minibatch.weight.numpy(), minibatch.total_weight
    total = np.add.reduce(weight) if whole is None else weight.dtype.type(whole)
    share = weight / total if total > 0 else np.zeros_like(weight)
    return share, None if np.minimum.reduce(weight) > 0 else weight > 0


def _exact(divergence: np.ndarray, share: np.ndarray, real: np.ndarray | None) -> float:
    """The mean of an exact KL `[B]`."""
    return float((divergence if real is None else np.where(real, divergence, 0.0)) @ share)


def _surrogate(
    log_prob: np.ndarray, minibatch: Batch, objective: Objective, share: np.ndarray, real: np.ndarray | None
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """DLoss/dlog_prob `[B]`; loss, approx KL, clip fraction, ratio deviation."""
    advantages = minibatch.advantages.numpy()
    log_ratio = log_prob - minibatch.log_prob.numpy()
    if real is not None:  # a sample of weight 0 may hold anything
        advantages, log_ratio = np.where(real, advantages, 0.0), np.where(real, log_ratio, 0.0)
    ratio = np.exp(log_ratio)
    gain = slope = ratio * advantages  # d (ratio * A) / d log_prob = ratio * A
    clip_fraction = 0.0
    deviation = ratio - 1.0
    np.abs(deviation, out=deviation)
    if objective.clip is not None:
        clipped = np.minimum(np.maximum(ratio, 1 - objective.clip), 1 + objective.clip)
        clipped *= advantages
        slope = np.where(gain <= clipped, gain, 0.0)
        gain = np.minimum(gain, clipped)
        clip_fraction = float((deviation > objective.clip) @ share)
    if objective.dual_clip is not None:
        floor = objective.dual_clip * advantages
        floored = (advantages < 0) & (floor > gain)
        gain, slope = np.where(floored, floor, gain), np.where(floored, 0.0, slope)
    statistics = (-float(gain @ share), _kl(log_ratio, share), clip_fraction, float(np.maximum.reduce(deviation)))
    return slope * -share, statistics


def _kl(log_ratio: np.ndarray, share: np.ndarray) -> float:
    """The k3 estimate of `core.divergences.kl_k3`, mean under `share`."""
    divergence = np.expm1(log_ratio)
    divergence -= log_ratio
    return float(np.maximum(divergence, 0.0, out=divergence) @ share)


def _value(
    values: np.ndarray, minibatch: Batch, objective: Objective, share: np.ndarray, real: np.ndarray | None
) -> tuple[np.ndarray, float]:
    """DLoss/dvalue `[B]` (coefficient included) and the value loss."""
    returns = minibatch.returns.numpy()
    if real is not None:
        returns = np.where(real, returns, values)
    error = values - returns
    squared = error * error
    if objective.value_clip is not None:
        old = minibatch.value.numpy() if real is None else np.where(real, minibatch.value.numpy(), values)
        move = values - old
        clipped_error = old + move.clip(-objective.value_clip, objective.value_clip) - returns
        clipped = clipped_error * clipped_error
        # Where the clipped error is the larger and the clip is active, the value's own slope is gone.
        error = np.where((clipped > squared) & (np.abs(move) > objective.value_clip), 0.0, error)
        squared = np.maximum(squared, clipped)
    return (objective.value_coefficient * share) * error, 0.5 * float(squared @ share)
