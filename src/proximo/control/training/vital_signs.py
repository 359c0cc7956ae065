"""What the truth meter asks of a control iteration, measured where it happens (`runs.health` judges it)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proximo.control.environments.episodes import Episode
from proximo.control.models.normalizers import RewardScaler
from proximo.control.models.policy import ControlPolicy
from proximo.control.training.rollout import Rollout
from proximo.core.batch import Batch
from proximo.core.beta import Beta
from proximo.core.distributions import Distribution, Gaussian, parts_of
from proximo.core.ratio_bins import ratio_counts
from proximo.core.statistics import RunningMoments
from proximo.runs.replay.undo import Snapshot

MEASURED = 512  # samples that the exact KL is a mean over, at most


def fingerprint(policy: ControlPolicy, scaler: RewardScaler) -> Tensor:
    """Every statistic that normalises something, as one vector: two are equal if and only if nothing has moved."""
    inner = [policy.values.moments, *(normalizer.moments for normalizer in policy.normalizers.values())]
    return torch.cat([_flat(inner).cpu(), _flat([scaler.moments])])  # one transfer: the scaler is on the host


def _flat(moments: Sequence[RunningMoments]) -> Tensor:
    return torch.cat([x.reshape(-1) for each in moments for x in (each.count, each.mean, each.squares)])


def vital_signs(policy: ControlPolicy, rollout: Rollout, batch: Batch, truncation: str = "exact") -> dict[str, Any]:
    """By name:

    `reset_row_weight`, the weight of rows that only report a reset (must be 0) · `terminations` and `truncations`,
    counts · `truncations_missed`, those whose last state is not known, `truncations_compared`, those whose last state
    can be told from the next episode's first, `truncations_faked`, those where it is that first one; where a setting
    says that it is not asked for, `truncations_approximated` counts all instead · `value_rms` and
    `return_rms`, in the critic's units · `reward_mean`, `reward_std`, as the environment gives them ·
    `observation_rms`, the largest of all dimensions, and `observation_max`, both as the network sees them.
    """
    valid = rollout.valid if rollout.memory is None else rollout.valid.T
    # NumPy, without a mask where none is needed: on small rollouts calls, not numbers, are what takes time.
    every, real = bool(valid.all()), valid.reshape(-1)
    columns = [x.reshape(-1).cpu().numpy() for x in (batch.value, batch.returns, batch.weight)]
    values, returns = columns[:2] if every else (column[real] for column in columns[:2])
    rewards = rollout.reward if every else rollout.reward[rollout.valid]
    signs: dict[str, Any] = {
        "reset_row_weight": 0.0 if every else float(columns[2][~real].sum()),
        "terminations": int((rollout.terminated & rollout.valid).sum()),
        **_truncations(rollout, exact=truncation == "exact"),
        "value_rms": float(np.sqrt(np.mean(values * values))),
        "return_rms": float(np.sqrt(np.mean(returns * returns))),
        "return_std": float(returns.std()),
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
    }
    vector = rollout.inputs.get("vector")
    return signs if vector is None else signs | _observations(policy, vector)


def still_deviations(policy: ControlPolicy, before: Tensor) -> dict[str, int]:
    """`std_stuck`: how many of the actions' deviations an update has left where they were.

    Empty without continuous actions, where they are fixed or a network gives them, which no bound can hold
    (`Noise._bounded` has a slope everywhere), and where the range is a single value, which asks for it. A deviation of
    `gsde` is made of a column of numbers, and stands where all of them do: one of a dead unit never moves.

    Args:
        policy: after the update.
        before: its `noise_numbers` before.
    """
    low, high = policy.settings.log_std_range
    if not len(before) or low == high or policy.noise.kind == "fixed":
        return {}
    still = policy.noise_numbers.detach() == before
    return {"std_stuck": int((still.all(0) if still.ndim == 2 else still).sum())}


def ended(episodes: Sequence[Episode]) -> dict[str, float]:
    """Of the episodes that ended since the last iteration: how many, and mean and deviation of their returns.

    `ended_task_mean` and `ended_task_std` are of the task itself, where a wrapper of the user's changes the reward;
    nothing but the count where none ended.
    """
    told: dict[str, float] = {"ended": len(episodes)}
    if not episodes:
        return told
    values, tasks = (np.array([getattr(e, name) for e in episodes]) for name in ("value", "task_value"))
    told |= {"ended_mean": float(values.mean()), "ended_std": float(values.std())}
    if not np.array_equal(values, tasks):
        told |= {"ended_task_mean": float(tasks.mean()), "ended_task_std": float(tasks.std())}
    return told


def spread_out(batch: Batch, minibatch_size: int | None) -> Batch:
    """The samples that are looked at after an update: a minibatch's worth, `MEASURED` at most, from all over."""
    return batch[:: -(-len(batch) // min(MEASURED, minibatch_size or MEASURED))]


@torch.no_grad()
def deviation(policy: ControlPolicy, seen: Distribution) -> float | None:
    """Mean standard deviation of the actions; None where a network of the user's own gives another distribution."""
    log_std = policy.deviations()
    if log_std is None:
        columns = [p.log_std.flatten(0, -2) for p in parts_of(seen) if isinstance(p, Gaussian | Beta)]
        log_std = torch.cat(columns, 1) if columns else None
    return None if log_std is None else float(log_std.exp().mean())


@torch.no_grad()
def ratios(part: Batch, after: Distribution, clip: float | None) -> str:
    """How the ratios of `part` are spread, of which the policy says `after` (`core.ratio_bins`)."""
    log_ratio = (after.log_prob(part.action) - part.log_prob)[part.weight > 0]
    return ratio_counts(log_ratio.cpu().numpy(), clip)


@torch.no_grad()
def exact_kl(
    policy: ControlPolicy, weights: Tensor, before: Snapshot | None, part: Batch, after: Distribution
) -> float | None:
    """KL(old policy, policy) in closed form, nats, a mean over `part`, of which the policy says `after`. None where
    the distributions have no closed form.

    Args:
        policy: after the update.
        weights: that it is a view of, as one vector.
        before: what was kept before the update; None where nothing was.
        part: samples.
        after: what the policy says of them.
    """
    if before is None:
        return None
    now = weights.clone()
    try:
        weights.copy_(before.weights)
        old = policy.look(part.inputs)[0]
    finally:
        weights.copy_(now)
    try:
        return float(part.mean(old.kl(after)))
    except (NotImplementedError, TypeError):
        return None


def _truncations(rollout: Rollout, *, exact: bool) -> dict[str, int]:
    """A truncated row needs the state it reached: it is a `FinalObservation`, or else what is observed next."""
    cut = rollout.truncated & ~rollout.terminated & rollout.valid
    counts = dict.fromkeys((f"truncations{end}" for end in ("", "_missed", "_compared", "_faked")), 0)
    counts["truncations"] = int(cut.sum())
    if not exact:
        return {"truncations": counts["truncations"], "truncations_approximated": counts["truncations"]}
    if not counts["truncations"]:
        return counts
    missed = cut & rollout.followed_by_start  # what is observed next belongs to another episode
    for final in rollout.finals:
        missed[final.step, final.rows] = False
        compared, faked = _compared(rollout, final.step, final.rows, final.inputs)
        counts["truncations_compared"] += compared
        counts["truncations_faked"] += faked
    return counts | {"truncations_missed": int(missed.sum())}


def _compared(rollout: Rollout, step: int, rows: np.ndarray, inputs: Any) -> tuple[int, int]:
    """How many final observations can be told from the first of the next episode, and how many of them are the same.

    Where nothing changes, neither in the last step nor in the reset, equal observations say nothing; nor do they where
    observations are few: an episode in a ring of cells may well be cut on the cell that the next one starts from. Whole
    numbers are taken for few, images and fractions for many.
    """
    index = torch.from_numpy(rows)
    last = step + 1 == len(rollout.reward)
    same, still = torch.ones(len(rows), dtype=torch.bool), torch.ones(len(rows), dtype=torch.bool)
    many = torch.zeros(len(rows), dtype=torch.bool)
    for name, x in inputs.items():
        if name != "mask":
            many |= (x.frac() != 0).flatten(1).any(1).cpu() if name.endswith("vector") else torch.ones_like(many)
        following = rollout.last_inputs[name] if last else rollout.inputs[name][step + 1]
        same &= (x == following[index.to(x.device)]).flatten(1).all(1).cpu()
        still &= (x == rollout.inputs[name][step][index.to(x.device)]).flatten(1).all(1).cpu()
    return int((many & ~(same & still)).sum()), int((many & same & ~still).sum())


def _observations(policy: ControlPolicy, vector: Tensor) -> dict[str, float]:
    seen = vector if policy.normalizer is None else policy.normalizer(vector)
    squares = seen.flatten(0, -2).square()
    return {"observation_rms": float(squares.mean(0).max().sqrt()), "observation_max": float(squares.max().sqrt())}
