"""What each metric is, in one sentence, with its unit and where it is healthy: the one table that all views read.

Limits are the health rules' own, imported.
"""

from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

from proximo.runs.health import rules


@dataclass(frozen=True)
class Band:
    """Where a metric is healthy: amber outside `low` to `high`, red above `red`."""

    low: float = -inf
    high: float = inf
    red: float = inf
    share_of_first: bool = False
    """Limits are in units of the run's first value."""


@dataclass(frozen=True)
class MetricText:
    """One metric, for someone who looks at it."""

    label: str
    unit: str
    sentence: str
    band: Band | None = None
    log: bool = False
    """Whether its course is read on a logarithmic axis."""
    better: Literal["higher", "lower"] | None = None
    """Which values are better, others being equal; None where neither is: an update's KL of 0 is no update."""


def _below(limits: tuple[float, float] | float) -> Band:
    high, red = limits if isinstance(limits, tuple) else (limits, inf)
    return Band(high=high, red=red)


_NATS = "nats"
_SHARE = "share, 0 to 1"

TEXTS: dict[str, MetricText] = {
    "return": MetricText(
        "return",
        "reward per episode",
        "Mean return of the last 100 training episodes, with exploration noise.",
        better="higher",
    ),
    "task_return": MetricText(
        "the task's own return",
        "reward per episode",
        "The same of the task itself, below wrappers that change rewards.",
        better="higher",
    ),
    "score": MetricText(
        "score", "of the reward", "Mean score that the reward gives to an iteration's responses.", better="higher"
    ),
    "judge": MetricText(
        "judge",
        "standardised score",
        "Mean score by a judge that is not optimised, on held-out prompts.",
        better="higher",
    ),
    "approx_kl": MetricText(
        "KL of an update",
        _NATS,
        "How far the updates move the policy: estimate (k3) of KL(old policy, policy), mean over minibatches.",
        _below(rules.APPROX_KL),
        log=True,
    ),
    "final_approx_kl": MetricText(
        "KL after the last step",
        _NATS,
        "Estimate (k3) of KL(old policy, policy) after an update's last gradient step.",
        _below(rules.FINAL_KL),
        log=True,
    ),
    "exact_kl": MetricText(
        "exact KL",
        _NATS,
        "KL(old policy, policy) after the update in closed form, over states of the rollout.",
        _below(rules.FINAL_KL),  # the number that `final_approx_kl` estimates
        log=True,
    ),
    "clip_fraction": MetricText(
        "clip fraction",
        _SHARE,
        "Share of samples whose probability ratio lies outside the clip range; 0 for long means steps are too small.",
        _below(rules.CLIP_FRACTION),
    ),
    "ratio_deviation": MetricText(
        "first ratio's deviation",
        "|ratio - 1|",
        "Largest |ratio - 1| at the first minibatch; more than rounding means that another policy acted.",
        _below(rules.RATIO_DEVIATION),
        log=True,
        better="lower",
    ),
    "ratio_histogram": MetricText(
        "probability ratio",
        "clip range = -1 to 1",
        "Spread of the ratios new policy / old policy after each update; beyond the clip range nothing is gained.",
    ),
    "entropy": MetricText(
        "entropy",
        _NATS,
        "How random the policy's choices are; it falls as the policy becomes sure.",
        Band(low=rules.ENTROPY_LEFT, share_of_first=True),
    ),
    "std": MetricText(
        "action deviation",
        "action units",
        "Mean standard deviation of the actions, which is how much the policy explores.",
        Band(low=rules.ENTROPY_LEFT, share_of_first=True),
    ),
    "explained_variance": MetricText(
        "explained variance",
        "1 is perfect",
        "Share of the returns' variance that the critic predicts; 0 is no better than their mean.",
        Band(low=rules.EXPLAINED_VARIANCE),
        better="higher",
    ),
    "critic_error": MetricText(
        "critic's error",
        "returns' deviations",
        "Root mean square error of the critic, in units of the returns' standard deviation.",
        Band(high=sqrt(1.0 - rules.EXPLAINED_VARIANCE)),  # the mean of the returns is no worse an estimate from here on
        better="lower",
    ),
    # No band: which rates are healthy depends on network, batch and optimiser (presets: 3e-6 to 3e-3), and a schedule
    # ends at 0. What a rate does is judged by the KL and the clip fraction.
    "learning_rate": MetricText(
        "learning rate", "step size of Adam", "Step size of the optimiser, as its schedule or its KL rule sets it."
    ),
    "grad_norm": MetricText(
        "gradient norm",
        "norm",
        "Norm of the gradient before it is cut, mean over minibatches.",
        _below(rules.GRAD_NORM),
    ),
    "actor_grad_norm": MetricText(
        "actor's gradient norm",
        "norm",
        "Norm of the gradient of all but the critic's own layers, where it is cut by itself, before that.",
    ),
    "critic_grad_norm": MetricText(
        "critic's gradient norm",
        "norm",
        "Norm of the gradient of the critic's own layers, where it is cut by itself, before that.",
    ),
    "policy_loss": MetricText("policy loss", "loss", "The negative of the surrogate objective, mean over minibatches."),
    "value_loss": MetricText(
        "value loss",
        "loss",
        "Half the critic's mean squared error, in the units that it learns.",
        better="lower",
    ),
    "episode_length": MetricText("episode length", "steps", "Mean length of the last 100 training episodes."),
    "ended_by_limit": MetricText(
        "episodes cut by a limit",
        _SHARE,
        "Share of the episodes ending in an iteration that a time limit cut; the others reached a terminal state.",
    ),
    "clipped_actions": MetricText(
        "actions beyond their bounds",
        _SHARE,
        "Share of action columns that lie beyond the bounds and are cut to them.",
        _below(rules.CLIPPED_ACTIONS),
        better="lower",
    ),
    "observation_rms": MetricText(
        "size of observations",
        "root mean square",
        "Size of the largest observation dimension, as the network sees it; networks start out for 1.",
        _below(rules.OBSERVATION_RMS),
        log=True,
    ),
    "return_rms": MetricText(
        "size of returns",
        "root mean square",
        "Size of the critic's targets, in the units that it learns.",
        _below(rules.RETURN_RMS),
        log=True,
    ),
    "kl": MetricText(
        "KL to the reference",
        "nats per response",
        "How far the policy has gone from the reference model (estimate k1); of TRPO the exact KL of an update's step.",
        better="lower",
    ),
    "kl_per_token": MetricText(
        "KL to the reference, per token",
        "nats per token",
        "The KL to the reference divided by the responses' mean length.",
        _below(rules.KL_PER_TOKEN),
        better="lower",
    ),
    "response_length": MetricText("response length", "tokens", "Mean length of an iteration's responses."),
    "finished": MetricText(
        "responses that ended",
        _SHARE,
        "Share of the responses that ended by themselves before the limit.",
        Band(low=rules.FINISHED),
        better="higher",
    ),
    "duplicates": MetricText(
        "duplicates", _SHARE, "Share of an iteration's responses that repeat another one.", better="lower"
    ),
    "distinct_2": MetricText(
        "distinct-2",
        _SHARE,
        "Share of different pairs of words among all pairs in the responses.",
        better="higher",
    ),
    "sampler_gap": MetricText(
        "sampler's gap",
        "nats per token",
        "Mean |log-prob of the sampler - of the trainer|; they should be one policy.",
        _below(rules.SAMPLER_GAP),
        log=True,
        better="lower",
    ),
    "loss": MetricText("loss", "nats", "What a supervised stage minimises, on its batch.", better="lower"),
    "validation_loss": MetricText(
        "validation loss", "nats", "The same loss on rows that are not learnt from.", better="lower"
    ),
    "accuracy": MetricText(
        "accuracy", _SHARE, "Share of the batch's pairs in which the preferred text scores higher.", better="higher"
    ),
    "validation/accuracy": MetricText(
        "held-out accuracy", _SHARE, "The same share on pairs that are not learnt from.", better="higher"
    ),
    "memory_mb": MetricText("memory", "MB", "Resident memory of the training process.", better="lower"),
    "health": MetricText(
        "health", "colour", "The truth meter's verdict on each iteration: green, amber (unusual) or red (unsound)."
    ),
    "seconds": MetricText(
        "time per phase", "share", "Share of the measured wall time that each phase of the run took."
    ),
}
"""By name; `ended_by_limit` and `kl_per_token` are made by the report from recorded numbers."""
