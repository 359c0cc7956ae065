"""The KL penalty: its mean gradient is that of the exact KL, and β follows the KL that updates come to."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from proximo.algorithms import PPO, PPOPenalty
from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Categorical
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask

ARMS = 3
OLD = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64)


class Bandit(nn.Module):
    """One state: logits of the arms."""

    def __init__(self, logits=OLD):
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def evaluate(self, batch):
        distribution = Categorical(self.logits.expand(len(batch), ARMS))
        zeros = torch.zeros(len(batch), dtype=torch.float64)
        return Evaluation(distribution.log_prob(batch.action), distribution.entropy(), zeros, distribution)


def every_arm(advantages):
    """One sample of each arm, which weighs as much as the old policy would draw it."""
    log_probs = OLD.log_softmax(-1)
    zeros = torch.zeros(ARMS, dtype=torch.float64)
    return Batch({}, torch.arange(ARMS), log_probs, zeros, advantages, zeros, log_probs.exp())


def test_its_gradient_is_that_of_the_surrogate_less_the_exact_kl():
    advantages = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    new = OLD + torch.tensor([0.4, 0.1, -0.3], dtype=torch.float64)
    policy, batch, beta = Bandit(new), every_arm(advantages), 0.7
    loss, statistics = PPOPenalty(kl_coefficient=beta).loss(policy.evaluate(batch), batch, 0.0, policy)
    loss.backward()
    logits = new.clone().requires_grad_()
    ratio = (logits.log_softmax(-1) - OLD.log_softmax(-1)).exp()
    kl = Categorical(OLD).kl(Categorical(logits))
    wanted = beta * kl - (OLD.softmax(-1) * ratio * advantages).sum()
    torch.testing.assert_close(loss.detach(), wanted.detach())
    torch.testing.assert_close(policy.logits.grad, torch.autograd.grad(wanted, logits)[0])
    assert float(statistics["kl_penalty"]) == pytest.approx(beta * float(kl))


def updated(learning_rate, beta, **settings):
    """β after an update that had it as `beta`, and its report."""
    policy, numbers = Bandit(), {"kl_coefficient": beta}
    batch = every_arm(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    algorithm = PPOPenalty(epochs=4, minibatch_size=ARMS, kl_target=0.01, **settings)
    optimizer = FlatAdam(policy.parameters(), learning_rate)
    task = UpdateTask(policy, batch, optimizer, numbers=numbers)
    report = algorithm.update(task)
    reached = Categorical(OLD).kl(Categorical(policy.logits.detach()))
    assert report.final_kl == pytest.approx(float(reached), abs=1e-9)
    return numbers["kl_coefficient"], report


@pytest.mark.parametrize(("learning_rate", "factor"), [(1e-4, 0.5), (0.045, 1.0), (0.3, 2.0)])
def test_beta_is_halved_below_the_target_and_doubled_above(learning_rate, factor):
    beta, report = updated(learning_rate, 0.001)
    low, high = 0.01 / 1.5, 0.01 * 1.5
    assert {0.5: report.final_kl < low, 1.0: low <= report.final_kl <= high, 2.0: report.final_kl > high}[factor]
    assert beta == 0.001 * factor
    assert report.values["kl_coefficient"] == 0.001, "what this update was done with"


@pytest.mark.parametrize(("learning_rate", "configured", "bound"), [(1e-4, 512.0, 2**-11), (0.3, 2**-30, 2**-10)])
def test_beta_stays_within_twenty_doublings_of_the_one_that_was_set(learning_rate, configured, bound):
    beyond, beta = (0.5, 1.5 * bound) if configured > bound else (2.0, bound / 1.5)
    for _ in range(3):  # it comes to the bound and stays there
        beta, _ = updated(learning_rate, beta, kl_coefficient=configured)
    assert beta == bound
    assert updated(learning_rate, beyond * bound, kl_coefficient=configured)[0] == beyond * bound  # never turned round


def test_a_fixed_beta_stays():
    policy, numbers = Bandit(), {}
    task = UpdateTask(
        policy, every_arm(torch.ones(ARMS, dtype=torch.float64)), FlatAdam([policy.logits], 0.1), numbers=numbers
    )
    PPOPenalty(epochs=2, minibatch_size=ARMS, kl_target=None).update(task)
    assert numbers == {}


def test_more_of_it_keeps_the_policy_nearer():
    reached = [updated(0.1, beta)[1].final_kl for beta in (0.01, 1.0, 30.0)]
    assert reached == sorted(reached, reverse=True)


def test_without_a_penalty_it_is_ppo_without_a_clip():
    batch = every_arm(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))
    policies = [Bandit(), Bandit()]
    algorithms = [
        PPO(epochs=3, minibatch_size=ARMS, clip=None),
        PPOPenalty(epochs=3, minibatch_size=ARMS, kl_target=None, kl_coefficient=1e-300),
    ]
    for policy, algorithm in zip(policies, algorithms, strict=True):
        algorithm.update(UpdateTask(policy, batch, FlatAdam(policy.parameters(), 0.1)))
    torch.testing.assert_close(policies[0].logits, policies[1].logits)


@pytest.mark.parametrize("wrong", [{"kl_coefficient": 0.0}, {"kl_target": -1.0}, {"kl_coefficient": math.inf}])
def test_numbers_that_mean_nothing_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be positive and finite"):
        replace(PPOPenalty(), **wrong)
