"""A2C and REINFORCE take the policy gradient, of the advantages that are theirs."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from proximo.algorithms import A2C, PPO, REINFORCE
from proximo.algorithms.base import Transitions
from proximo.core.batch import Batch, Evaluation
from proximo.core.distributions import Categorical
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask
from proximo.errors import UserError

ARMS = 3


class Bandit(nn.Module):
    """One state: logits of the arms, and a value."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64))
        self.value = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def evaluate(self, batch):
        distribution = Categorical(self.logits.expand(len(batch), ARMS))
        return Evaluation(
            distribution.log_prob(batch.action), distribution.entropy(), self.value.expand(len(batch)), distribution
        )


def gradient_of(algorithm, rewards, weight):
    """The gradient of one update's only step, on one sample of each arm."""
    policy = Bandit()
    arms = torch.arange(ARMS)
    log_prob = policy.logits.detach().log_softmax(-1)
    rollout = transitions(rewards.unsqueeze(0), value=float(policy.value))
    advantages, returns, *_ = algorithm.estimate(rollout)
    batch = Batch({}, arms, log_prob, policy.value.detach().expand(ARMS), advantages[0], returns[0], weight)
    optimizer = FlatAdam(policy.parameters(), 0.0)
    algorithm.update(UpdateTask(policy, batch, optimizer))
    return optimizer.gradient.clone()


def transitions(rewards, *, value=0.0, done=None, terminated=None, gamma=0.9):
    done = torch.ones_like(rewards, dtype=torch.bool) if done is None else done
    terminated = done if terminated is None else terminated
    values = torch.full_like(rewards, value)
    return Transitions(rewards, values, values, terminated, done, gamma, 0.95)


@pytest.mark.parametrize("algorithm", [REINFORCE(baseline=False), REINFORCE(), A2C(), A2C(normalize_advantages="off")])
def test_its_mean_gradient_is_that_of_the_expected_reward(algorithm):
    """Each arm weighs as much as it is probable, so that the mean over the batch is the expectation."""
    rewards = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    logits = Bandit().logits.detach().requires_grad_()
    probs = logits.softmax(-1)
    (wanted,) = torch.autograd.grad((probs * rewards).sum(), logits)
    plain = replace(algorithm, normalize_advantages="off", max_grad_norm=None)
    found = gradient_of(plain, rewards, probs.detach())
    torch.testing.assert_close(-found[:ARMS], wanted)


def test_a_baseline_lowers_the_gradients_variance_and_not_its_mean():
    rewards = torch.tensor([9.0, 10.0, 11.0], dtype=torch.float64)
    probs = Bandit().logits.detach().softmax(-1)
    scores = torch.eye(ARMS, dtype=torch.float64) - probs
    spreads = []
    for algorithm in (REINFORCE(baseline=False), REINFORCE()):
        advantages = algorithm.estimate(transitions(rewards.unsqueeze(0), value=10.0))[0][0]
        single = advantages.unsqueeze(1) * scores
        mean = (probs.unsqueeze(1) * single).sum(0)
        spreads.append(((single - mean) ** 2 * probs.unsqueeze(1)).sum())
        torch.testing.assert_close(mean, (probs.unsqueeze(1) * rewards.unsqueeze(1) * scores).sum(0))
    assert spreads[1] < 0.02 * spreads[0]


def test_returns_without_a_baseline_are_discounted_sums_and_cut_episodes_count_nothing():
    """Two environments: the first ends at steps 1 and 3 of 5, the second never."""
    rewards = torch.tensor([[1.0, 1.0], [2.0, 1.0], [4.0, 1.0], [8.0, 1.0], [16.0, 1.0]], dtype=torch.float64)
    done = torch.tensor([[0, 0], [1, 0], [0, 0], [1, 0], [0, 0]], dtype=torch.bool)
    rollout = transitions(rewards, value=100.0, done=done, gamma=0.5)
    advantages, returns, weight = REINFORCE(baseline=False).estimate(rollout)
    torch.testing.assert_close(returns[:4, 0], torch.tensor([2.0, 2.0, 8.0, 8.0], dtype=torch.float64))
    assert torch.equal(advantages, returns)
    assert weight.tolist() == [[1, 0], [1, 0], [1, 0], [1, 0], [0, 0]]


def test_with_a_baseline_what_is_cut_is_bootstrapped():
    rewards = torch.ones(2, 1, dtype=torch.float64)
    done = torch.tensor([[False], [True]])
    rollout = transitions(rewards, value=10.0, done=done, terminated=torch.zeros_like(done), gamma=0.5)
    advantages, returns = REINFORCE().estimate(rollout)
    torch.testing.assert_close(returns.flatten(), torch.tensor([1 + 0.5 * 6, 6.0], dtype=torch.float64))
    torch.testing.assert_close(advantages, returns - 10.0)


def test_without_an_end_and_a_baseline_there_is_nothing_to_learn_from():
    with pytest.raises(UserError, match="no episode ended in a rollout of 3 steps"):
        REINFORCE(baseline=False).estimate(transitions(torch.ones(3, 2), done=torch.zeros(3, 2, dtype=torch.bool)))


def test_a2c_is_ppo_with_one_epoch_one_minibatch_and_no_clip():
    """Huang et al. 2022, arXiv 2205.09123; with a clip too, since the ratio is 1."""
    rewards = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weight = torch.ones(ARMS, dtype=torch.float64)
    numbers = {"epochs": 1, "minibatch_size": ARMS, "normalize_advantages": "off"}
    a2c = gradient_of(A2C(), rewards, weight)
    for clip in (None, 0.2):
        torch.testing.assert_close(gradient_of(PPO(clip=clip, **numbers), rewards, weight), a2c)


def test_reinforce_learns_values_for_its_baseline_alone():
    rewards, weight = torch.ones(ARMS, dtype=torch.float64), torch.ones(ARMS, dtype=torch.float64)
    assert gradient_of(REINFORCE(baseline=False), rewards, weight)[-1] == 0
    assert gradient_of(REINFORCE(), rewards, weight)[-1] != 0
    assert (REINFORCE().critic, REINFORCE(baseline=False).critic) == (True, False)
