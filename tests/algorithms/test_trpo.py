"""TRPO's step is the natural gradient, and no update leaves its bound."""

from dataclasses import replace

import control_tasks
import pytest
import torch
from control_runs import configured
from torch import nn

from proximo.algorithms.trpo import TRPO
from proximo.control.environments import make_environments
from proximo.control.training.training import Training
from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Categorical, Gaussian
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask
from proximo.errors import UserError

STATES, ACTIONS = 3, 4


class Table(nn.Module):
    """Logits and a value for each of a few states."""

    def __init__(self, generator):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(STATES, ACTIONS, generator=generator, dtype=torch.float64))
        self.values = nn.Parameter(torch.zeros(STATES, dtype=torch.float64))

    def evaluate(self, batch):
        state = batch.inputs["state"]
        distribution = Categorical(self.logits[state])
        return Evaluation(distribution.log_prob(batch.action), distribution.entropy(), self.values[state], distribution)


class Line(nn.Module):
    """A Gaussian whose mean is a linear function of the state, with a deviation of its own; and a shared layer."""

    def __init__(self, generator):
        super().__init__()
        self.shared = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))
        self.mean = nn.Parameter(torch.randn(2, 2, generator=generator, dtype=torch.float64))
        self.log_std = nn.Parameter(0.3 * torch.randn(2, generator=generator, dtype=torch.float64))
        self.value = nn.Parameter(torch.zeros(2, dtype=torch.float64))

    def evaluate(self, batch):
        features = batch.inputs["state"] @ self.shared
        distribution = Gaussian(features @ self.mean, self.log_std)
        return Evaluation(
            distribution.log_prob(batch.action), distribution.entropy(), features @ self.value, distribution
        )


def task_of(policy, inputs, generator, size=64, **settings):
    """An update on actions that the policy drew, with advantages and returns at random."""
    with torch.no_grad():
        empty = Batch({"state": inputs}, *(torch.zeros(size, dtype=torch.float64) for _ in range(6)))
        if isinstance(policy, Line):
            empty = empty.replace(action=torch.zeros(size, 2, dtype=torch.float64))
        distribution = policy.evaluate(empty).distribution
        action = distribution.sample(generator)
        advantages, returns = (torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(2))
        batch = Batch(
            {"state": inputs},
            action.to(torch.float64),
            distribution.log_prob(action),
            torch.zeros(size, dtype=torch.float64),
            advantages,
            returns,
            torch.ones(size, dtype=torch.float64),
        )
    optimizer = FlatAdam(policy.parameters(), 1e-2)
    return UpdateTask(policy, batch, optimizer, generator=generator, **settings)


def table_task(seed, size=64):
    generator = torch.Generator().manual_seed(seed)
    policy = Table(generator)
    return task_of(policy, torch.randint(STATES, (size,), generator=generator), generator, size)


def line_task(seed, size=64):
    generator = torch.Generator().manual_seed(seed)
    policy = Line(generator)
    return task_of(policy, torch.randn(size, 2, generator=generator, dtype=torch.float64), generator, size)


def mean_kl(before, policy, batch):
    with torch.no_grad():
        return float(batch.mean(before.kl(policy.evaluate(batch).distribution)))


def test_the_step_is_the_natural_gradient():
    """Fisher's matrix written out from its definition: the mean over states of sum_a p(a) g_a g_a', g = d log p."""
    task = table_task(0)
    policy, batch = task.policy, task.batch
    logits = policy.logits.detach().clone()
    size = STATES * ACTIONS
    fisher = torch.zeros(size, size, dtype=torch.float64)
    gradient = torch.zeros(size, dtype=torch.float64)
    probs = logits.softmax(-1)
    for state, action, advantage in zip(batch.inputs["state"], batch.action.long(), batch.advantages, strict=True):
        for a in range(ACTIONS):
            score = torch.zeros(STATES, ACTIONS, dtype=torch.float64)
            score[state] = -probs[state]
            score[state, a] += 1.0
            score = score.flatten()
            fisher += probs[state, a] * torch.outer(score, score) / len(batch)
            if a == action:
                gradient += advantage * score / len(batch)
    damping, bound = 0.05, 1e-6
    damped = fisher + damping * torch.eye(size, dtype=torch.float64)
    wanted = torch.linalg.solve(damped, gradient)
    wanted = wanted * (2 * bound / (wanted @ damped @ wanted)).sqrt()
    settings = TRPO(max_kl=bound, damping=damping, conjugate_steps=60, normalize_advantages="off", critic_epochs=1)
    report = replace(settings, minibatch_size=None).update(task)
    assert report.values["step_share"] == 1.0
    torch.testing.assert_close((policy.logits.detach() - logits).flatten(), wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("count", [100, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [table_task, line_task])
def test_no_update_leaves_the_bound_and_most_come_near_it(make, count):
    """Random batches of each kind, with bounds from a thousandth to a third of a nat."""
    near, moved = 0, 0
    for seed in range(count):
        task = make(seed, size=32)
        bound = float(torch.rand(1, generator=task.generator)) ** 3 / 3 + 1e-3
        with torch.no_grad():
            before = task.policy.evaluate(task.batch).distribution
        report = TRPO(max_kl=bound, minibatch_size=None, critic_epochs=1, damping=0.01).update(task)
        reached = mean_kl(before, task.policy, task.batch)
        assert reached <= bound * (1 + 1e-9)
        assert reached == pytest.approx(report.values["kl"], abs=1e-12)
        moved += report.values["surrogate_gain"] > 0
        near += reached > 0.3 * bound
    assert moved > 0.98 * count
    assert near > 0.8 * count


def test_the_critic_does_not_move_the_policy():
    """What both share stays where the policy's step has put it; the critic's own weights are fitted."""
    once, thrice = line_task(1), line_task(1)
    settings = TRPO(minibatch_size=16, critic_epochs=1)
    settings.update(once)
    replace(settings, critic_epochs=3).update(thrice)
    for name in ("shared", "mean", "log_std"):
        assert torch.equal(getattr(once.policy, name), getattr(thrice.policy, name))
    assert not torch.equal(once.policy.value, thrice.policy.value)


def test_without_a_direction_the_policy_stays():
    task = table_task(2)
    task = replace(task, batch=task.batch.replace(advantages=torch.zeros(64, dtype=torch.float64)))
    before = task.policy.logits.detach().clone()
    report = TRPO(minibatch_size=None).update(task)
    assert torch.equal(task.policy.logits, before)
    assert (report.values["step_share"], report.values["kl"]) == (0.0, 0.0)


def test_samples_of_weight_zero_change_nothing():
    whole, less = line_task(3), line_task(3)
    batch = less.batch
    padded = Batch(
        {"state": torch.cat([batch.inputs["state"], torch.ones(8, 2, dtype=torch.float64)])},
        *(
            torch.cat([x, torch.full((8, *x.shape[1:]), 7.0, dtype=torch.float64)])
            for x in (batch.action, batch.log_prob, batch.value, batch.advantages, batch.returns)
        ),
        torch.cat([batch.weight, torch.zeros(8, dtype=torch.float64)]),
    )
    settings = TRPO(minibatch_size=None, critic_epochs=1, normalize_advantages="batch")
    settings.update(whole)
    settings.update(replace(less, batch=padded))
    for name in ("shared", "mean", "log_std"):
        torch.testing.assert_close(getattr(whole.policy, name), getattr(less.policy, name), rtol=1e-9, atol=1e-12)


def test_a_policy_without_distributions_is_refused():
    task = table_task(4)
    whole = task.policy.evaluate
    task.policy.evaluate = lambda batch: replace(whole(batch), distribution=None)
    with pytest.raises(UserError, match="bounds the exact KL"):
        TRPO(minibatch_size=None).update(task)


@pytest.mark.parametrize("actions", ["box", "discrete", "masked"])
def test_every_kind_of_actions_of_a_run_is_held(actions):
    config = configured(options={"number": 5, "actions": actions}, count=4, length=16)
    config = replace(config, update=TRPO(minibatch_size=None, max_kl=0.02))
    training = Training(config, make_environments(control_tasks.probe, 4, options=config.options))
    training.start()
    for _ in range(3):
        row = training.iterate()
        assert 0 < row["kl"] <= 0.02 * (1 + 1e-5)
        assert row["exact_kl"] == pytest.approx(row["kl"], rel=1e-3)
    training.environments.close()
