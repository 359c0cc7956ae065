"""Updates on several ranks, for tests/scale: each rank takes its part of one rollout that all can make."""

import numpy as np
import torch
from gymnasium import spaces

from proximo.algorithms.base import Transitions
from proximo.algorithms.ppo import PPO
from proximo.algorithms.ppo_penalty import PPOPenalty
from proximo.algorithms.reinforce import REINFORCE
from proximo.algorithms.trpo import TRPO
from proximo.control.closed_form.gradient import ClosedForm
from proximo.control.config import NetworkSettings
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.batch import Batch
from proximo.core.ranks import ALONE
from proximo.core.statistics import RunningMoments, informative
from proximo.core.updates.across import SummedGradient, room, split_across
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask
from proximo.errors import UserError

ROWS, STEPS = 8, 12  # environments, steps of each
WHOLE = {"minibatch_size": None, "epochs": 3, "learning_rate": 0.02}
CASES = {
    "closed form": (PPO, {}),
    "advantages as they are": (PPO, {"normalize_advantages": "off"}),
    "by minibatch": (PPO, {"normalize_advantages": "minibatch"}),
    "autograd": (PPO, {"autograd": True}),
    "autograd in parts": (PPO, {"autograd": True, "micro_batches": 5}),
    "stopped by the KL": (PPO, {"target_kl": 1e-4}),
    "rate by the KL": (PPO, {"adaptive_kl": 0.01}),
    "penalty": (PPOPenalty, {"autograd": True}),
    "trust region": (TRPO, {"autograd": True, "epochs": 1, "critic_epochs": 3}),
}


def policy_and_batch():
    """A policy, and a rollout of another one: `STEPS` steps of `ROWS` environments; some only report resets."""
    torch.manual_seed(0)
    policy = ControlPolicy(
        ObservationSpec.of(spaces.Box(-1, 1, (5,), np.float32)),
        ActionSpec.of(spaces.Box(-1, 1, (2,), np.float32)),
        NetworkSettings(hidden=(16,)),
        normalize_observations=False,
    ).double()
    g = torch.Generator().manual_seed(1)
    vector = torch.randn(STEPS, ROWS, 5, generator=g, dtype=torch.float64)
    seen = policy.act({"vector": vector.flatten(0, 1)}, generator=g)
    weight = torch.ones(STEPS, ROWS, dtype=torch.float64)
    weight[5, ::3] = 0.0
    weight[7, 1] = 0.5
    weight[:, 2] = 0.0  # all that one of four ranks has, where they share unevenly
    advantages, returns = 3 * torch.randn(2, STEPS, ROWS, generator=g, dtype=torch.float64) + 1
    columns = (seen.action, seen.log_prob, seen.value, advantages, returns, weight)
    action, log_prob, value, *rest = (
        x.reshape(STEPS, ROWS, *x.shape[1:]) if len(x) == ROWS * STEPS else x for x in columns
    )
    where = torch.arange(ROWS * STEPS, dtype=torch.float64).reshape(STEPS, ROWS)
    return policy, Batch({"vector": vector, "where": where}, action, log_prob, value, *rest)


def of_rows(batch, rows):
    """The steps of some environments, as a rank has them."""
    return batch.map(lambda x: x[:, rows].flatten(0, 1))


def updated(ranks, rows, case):
    """Weights after one update, and its report; of the environments in `rows` on this rank."""
    kind, options = CASES[case]
    options = {**WHOLE, **options}
    autograd, rate = options.pop("autograd", False), options.pop("learning_rate")
    algorithm = kind(**options)
    policy, batch = policy_and_batch()
    optimizer = FlatAdam(policy.parameters_by_layer(), rate, room=room(ranks))
    task = UpdateTask(
        policy,
        of_rows(batch, rows),
        optimizer,
        generator=torch.Generator().manual_seed(3),
        split=lambda minibatch: minibatch.split(algorithm.micro_batches),
        closed_form=None if autograd else ClosedForm(policy),
        ranks=ranks,
        samples=ROWS * STEPS,
        reward_scale=1.0,
    )
    report = algorithm.update(task)
    told = {**report.values, "steps": report.steps, "final": report.final_kl, "rate": optimizer.learning_rate}
    return optimizer.flat.tolist(), told


def every_update(mesh, shares):
    """`updated` of every case, with the environments shared out in each of these ways."""
    return [{case: updated(mesh, rows[mesh.rank], case) for case in CASES} for rows in shares]


def minibatches(mesh, rows):
    """Of minibatches on several ranks: which samples, and how far their gradient is off that of one process."""
    policy, whole = policy_and_batch()
    far = torch.randn(whole.log_prob.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    whole = whole.replace(log_prob=whole.log_prob + 0.3 * far)  # ratios away from 1
    mine = of_rows(whole, rows[mesh.rank])
    everything = of_rows(whole, slice(None))
    algorithm, found = PPO(), []
    order = torch.randperm(len(mine), generator=torch.Generator().manual_seed(mesh.rank))
    optimizer = FlatAdam(policy.parameters_by_layer(), 0.0, room=room(mesh))
    alone = algorithm.gradient(UpdateTask(policy, everything, optimizer, closed_form=ClosedForm(policy)))
    for part in split_across(mine[order], 4, mesh, algorithm.denominator):
        optimizer.zero_grad()
        told = SummedGradient(alone, mesh, optimizer)(part)
        summed = optimizer.gradient.clone()
        here = torch.zeros(len(everything))
        here[part.inputs["where"].long()] = 1
        whose = mesh.sum_across_ranks(here).nonzero()[:, 0]
        optimizer.zero_grad()
        at = torch.argsort(everything.inputs["where"])  # samples by their number
        expected = alone(everything[at[whose]])
        same = {name: abs(float(told[name]) - float(expected[name])) for name in expected}
        found.append((whose.tolist(), float((summed - optimizer.gradient).abs().max()), max(same.values())))
    return found


def statistics(mesh, rows):
    """Moments and the rewards' scale of all ranks' samples, on this rank."""
    x = torch.randn(20, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 4 + 7
    rewards = torch.tensor([0.0] * 17 + [1.0, 3.0, -2.0])
    moments = RunningMoments((3,))
    moments.absorb(x[:4])
    moments.absorb(x[4:][rows[mesh.rank]], ranks=mesh)
    alone = RunningMoments((3,))
    alone.absorb(x[:4])
    alone.absorb(x[4:])
    off = max(float((a - b).abs().max()) for a, b in zip(moments.buffers(), alone.buffers(), strict=True))
    return off, informative(rewards[mesh.rank :: mesh.size], None, mesh)[1], informative(rewards)[1]


def allowed(mesh, rows):
    """How far the first ratio may be off 1 where actions of rank 1 are a million times as large, and alone."""
    policy, whole = policy_and_batch()
    mine = of_rows(whole, rows[mesh.rank])
    mine = mine.replace(action=mine.action * (1e6 if mesh.rank == 1 else 1))
    optimizer = FlatAdam(policy.parameters_by_layer(), 0.0)
    return [UpdateTask(policy, mine, optimizer, ranks=ranks).allowed_deviation for ranks in (mesh, ALONE)]


def whole_episodes(mesh, ended):
    """How much each step counts for REINFORCE without a baseline, where an episode has ended on these ranks."""
    done = torch.zeros(4, 2, dtype=torch.bool)
    done[2, 0] = mesh.rank in ended
    zeros = torch.zeros(4, 2)
    rollout = Transitions(zeros + 1, zeros, zeros, done, done, 1.0, 1.0, ranks=mesh)
    try:
        return REINFORCE(baseline=False).estimate(rollout)[2].tolist()
    except UserError as error:
        return str(error)


def everything(mesh, shares):
    """All of it in one process start."""
    rows = [slice(0, 3), slice(3, 16)] if mesh.size == 2 else [slice(0, 0), slice(0, 9), slice(9, 10), slice(10, 16)]
    return {
        "updates": every_update(mesh, shares),
        "whole episodes": [whole_episodes(mesh, ended) for ended in ({1}, ())],
        "minibatches": minibatches(mesh, shares[-1]),
        "statistics": statistics(mesh, rows),
        "allowed": allowed(mesh, shares[-1]),
    }


def alone():
    """Every update in one process, by the code that one process runs."""
    return {case: updated(ALONE, slice(None), case) for case in CASES}
