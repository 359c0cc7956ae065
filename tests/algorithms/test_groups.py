"""RLOO's mean gradient is that of the objective, exactly; GRPO's is not, and its parts are what its papers say."""

import itertools

import pytest
import torch
from torch import nn

from proximo.algorithms import GRPO, RLOO
from proximo.core.advantages import leave_one_out, relative
from proximo.core.batch import Batch, Evaluation
from proximo.core.divergences import kl_k3
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask
from proximo.language.ppo.rollout import estimate, token_rewards, with_reference

WORDS, CAP, BETA = 3, 2, 0.5
RESPONSES = [(0,), *itertools.product(range(1, WORDS), range(WORDS))]
"""Word 0 ends a response; two words are the most."""


class Tables(nn.Module):
    """A policy over all responses: logits of the first word, and of the second after each first one."""

    def __init__(self, seed):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.logits = nn.Parameter(torch.randn(1 + WORDS, WORDS, generator=generator, dtype=torch.float64))

    def token_log_probs(self, batch):
        words, log_p = batch.action.long(), self.logits.log_softmax(-1)
        first = log_p[0].gather(0, words[:, 0])
        second = log_p[1 + words[:, 0]].gather(1, words[:, 1:]).squeeze(1)
        return torch.where(batch.weight > 0, torch.stack([first, second], 1), 0.0)

    def evaluate(self, batch):
        log_prob = self.token_log_probs(batch)
        return Evaluation(log_prob, torch.zeros_like(log_prob), torch.zeros_like(log_prob))


def every_group(policy, group):
    """Every tuple of responses, one after the other, and how probable each tuple is; sampled by the policy."""
    tuples = list(itertools.product(range(len(RESPONSES)), repeat=group))
    rows = [RESPONSES[i] for indices in tuples for i in indices]
    action = torch.tensor([row + (0,) * (CAP - len(row)) for row in rows])
    weight = torch.tensor([[1.0] * len(row) + [0.0] * (CAP - len(row)) for row in rows], dtype=torch.float64)
    zeros = torch.zeros_like(weight)
    batch = Batch({}, action, zeros, zeros, zeros, zeros, weight)
    log_prob = policy.token_log_probs(batch).detach()
    probable = log_prob.sum(1).view(-1, group).sum(1).exp()
    assert float(probable.sum()) == pytest.approx(1.0)
    return batch.replace(log_prob=log_prob), probable.repeat_interleave(group)


def rewards_of(batch, seed=5):
    table = torch.randn(len(RESPONSES), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    keys = {row + (0,) * (CAP - len(row)): x for row, x in zip(RESPONSES, table, strict=True)}
    return torch.stack([keys[tuple(row)] for row in batch.action.tolist()])


def mean_gradient(algorithm, policy, reference, group):
    """Of the loss, over everything that the policy may sample."""
    batch, probable = every_group(policy, group)
    scores, ref = rewards_of(batch), reference.token_log_probs(batch).detach()
    lengths = (batch.weight > 0).sum(1)
    price = 0.0 if algorithm.kl_in_the_loss else BETA
    rewards = token_rewards(scores, batch.log_prob, ref, lengths, price)
    batch = estimate(batch, rewards, algorithm, 1.0, 1.0, scores, CAP)
    batch = with_reference(batch, algorithm, ref, BETA)
    if "kl_coefficient" in batch.inputs:
        batch = batch.replace(inputs={**batch.inputs, "kl_coefficient": batch.inputs["kl_coefficient"].double()})
    batch = batch.replace(weight=batch.weight * probable.unsqueeze(1))
    policy.zero_grad()
    algorithm.gradient(UpdateTask(policy, batch, None))(batch)
    return policy.logits.grad.clone()


def objective(policy, reference):
    """E[r] - beta KL(policy, reference), enumerated; with gradient."""
    batch, _ = every_group(policy, 1)
    log_p = policy.token_log_probs(batch).sum(1)
    log_ref = reference.token_log_probs(batch).detach().sum(1)
    return (log_p.exp() * (rewards_of(batch) - BETA * (log_p - log_ref))).sum()


def at_the_optimum(reference):
    """The table of pi*(y) ~ pi_ref(y) exp(r(y) / beta)."""
    batch, _ = every_group(reference, 1)
    best = (reference.token_log_probs(batch).detach().sum(1) + rewards_of(batch) / BETA).softmax(0)
    policy = Tables(0)
    first = torch.zeros(WORDS, dtype=torch.float64)
    second = torch.full((WORDS, WORDS), 1.0, dtype=torch.float64)
    for row, p in zip(RESPONSES, best, strict=True):
        first[row[0]] += p
        if len(row) > 1:
            second[row[0], row[1]] = p
    with torch.no_grad():
        policy.logits[0] = first.log()
        policy.logits[1:] = second.log()
    return policy


@pytest.mark.parametrize("group", [2, 3])
def test_rloos_mean_gradient_is_the_objectives(group):
    policy, reference = Tables(1), Tables(2)
    (wanted,) = torch.autograd.grad(objective(policy, reference), policy.logits)
    found = mean_gradient(RLOO(group=group), policy, reference, group)
    torch.testing.assert_close(-found, wanted, rtol=1e-9, atol=1e-12)


def test_at_the_optimum_rloo_stays_and_grpo_goes_on():
    reference = Tables(2)
    policy = at_the_optimum(reference)
    (none,) = torch.autograd.grad(objective(policy, reference), policy.logits)
    assert float(none.abs().max()) < 1e-12
    kinds = ({}, {"unbiased_kl": False}, {"length": "token"}, {"scale": "off", "length": "limit"})
    for algorithm in (RLOO(group=2), *(GRPO(group=2, **kind) for kind in kinds)):
        here = float(mean_gradient(algorithm, policy, reference, 2).abs().max())
        elsewhere = float(mean_gradient(algorithm, Tables(1), reference, 2).abs().max())
        share = here / elsewhere
        assert share < 1e-12 if isinstance(algorithm, RLOO) else share > 1e-3


def test_without_a_kl_the_gradient_of_dr_grpo_is_the_objectives_but_for_its_size():
    """Its baseline holds the response itself: (k - 1) / k of the gradient, divided by the longest length."""
    policy = Tables(1)
    batch, _ = every_group(policy, 1)
    (wanted,) = torch.autograd.grad(
        (policy.token_log_probs(batch).sum(1).exp() * rewards_of(batch)).sum(), policy.logits
    )
    rows = {}
    for scale in ("off", "group"):
        algorithm = GRPO(group=2, scale=scale, length="limit")
        samples, probable = every_group(policy, 2)
        scores = rewards_of(samples)
        rewards = token_rewards(scores, samples.log_prob, None, (samples.weight > 0).sum(1), 0.0)
        samples = estimate(samples, rewards, algorithm, 1.0, 1.0, scores, CAP)
        samples = samples.replace(weight=samples.weight * probable.unsqueeze(1))
        policy.zero_grad()
        algorithm.gradient(UpdateTask(policy, samples, None))(samples)
        rows[scale] = -policy.logits.grad * len(samples) / 2
    torch.testing.assert_close(rows["off"], wanted * 0.5 / CAP, rtol=1e-9, atol=1e-12)
    cosine = torch.nn.functional.cosine_similarity(rows["group"].flatten(), wanted.flatten(), dim=0)
    assert float(cosine) < 0.999, "divided by the group's deviation it points elsewhere"


def test_scores_are_compared_within_their_group():
    scores = torch.tensor([1.0, 3.0, 10.0, 10.0, 0.0, 4.0], dtype=torch.float64)
    assert leave_one_out(scores, 2).tolist() == [-2.0, 2.0, 0.0, 0.0, -4.0, 4.0]
    assert relative(scores, 2, "off").tolist() == [-1.0, 1.0, 0.0, 0.0, -2.0, 2.0]
    half = 0.5**0.5
    expected = torch.tensor([-half, half, 0.0, 0.0, -half, half], dtype=torch.float64)
    torch.testing.assert_close(relative(scores, 2, "group", epsilon=1e-12), expected)
    equal = torch.full((3,), 0.1)  # whose mean is not 0.1 in float32
    assert relative(equal, 3, "group").tolist() == [0.0, 0.0, 0.0]


def test_a_tokens_weight_is_what_its_papers_divide_by():
    batch, _ = every_group(Tables(1), 2)
    scores = rewards_of(batch)
    rewards = token_rewards(scores, batch.log_prob, None, (batch.weight > 0).sum(1), 0.0)
    lengths = (batch.weight > 0).sum(1)
    for length in ("response", "token", "limit"):
        algorithm = GRPO(group=2, length=length)
        made = estimate(batch, rewards, algorithm, 1.0, 1.0, scores, 5)
        sums = made.weight.sum(1)
        wanted = {"response": torch.ones_like(sums), "token": lengths.double(), "limit": lengths / 5}[length]
        torch.testing.assert_close(sums, wanted.double())
        divided = float(len(batch)) if length == "limit" else float(sums.sum())
        assert float(algorithm.denominator(made)) == pytest.approx(divided)


def test_a_higher_clip_above_leaves_more_room_upwards():
    """DAPO's clip-higher: at a ratio of 1.25 the gradient is there with 0.28 and gone with 0.2."""
    for high, alive in ((None, False), (0.28, True)):
        policy = Tables(1)
        batch, _ = every_group(policy, 2)
        batch = batch.replace(log_prob=batch.log_prob - 0.2231, advantages=torch.ones_like(batch.weight))
        loss, _ = GRPO(group=2, clip_high=high).loss(policy.evaluate(batch), batch, 0.0, policy)
        loss.backward()
        assert bool(policy.logits.grad.abs().max() > 1e-6) == alive


def test_the_kl_in_the_loss_is_k3_at_its_price():
    policy, reference = Tables(1), Tables(2)
    batch, _ = every_group(policy, 2)
    ref = reference.token_log_probs(batch).detach()
    algorithm = GRPO(group=2)
    rows = batch.replace(advantages=torch.zeros_like(batch.weight))
    priced = rows.replace(inputs={"ref_log_prob": ref, "kl_coefficient": torch.full((len(batch),), BETA).double()})
    loss, told = algorithm.loss(policy.evaluate(priced), priced, 0.0, policy)
    kl = kl_k3(policy.token_log_probs(batch), ref)
    wanted = ((batch.weight * kl).sum() / batch.weight.sum()).detach()
    assert float(loss.detach()) == pytest.approx(BETA * float(wanted))
    assert float(told["kl_in_the_loss"]) == pytest.approx(float(wanted))
    assert float(algorithm.loss(policy.evaluate(rows), rows, 0.0, policy)[0].detach()) == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"group": 1}, "group = 1 must be 2 or more"),
        ({"clip_high": 0.3, "clip": None}, "needs a clip"),
        ({"value_coefficient": 0.5}, "learns no values"),
        ({"normalize_advantages": "batch"}, "within the responses"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, words):
    for algorithm in (RLOO, GRPO):
        with pytest.raises(ValueError, match=words):
            algorithm(**wrong)


def test_an_update_of_parts_is_that_of_the_whole():
    """The loss of a minibatch does not depend on how it goes through the network."""
    reference = Tables(2)
    found = []
    for algorithm in (RLOO(group=2, minibatch_size=None), GRPO(group=2, minibatch_size=None, length="limit")):
        for parts in (1, 5):
            policy = Tables(1)
            batch, _ = every_group(policy, 2)
            scores, ref = rewards_of(batch), reference.token_log_probs(batch).detach()
            rewards = token_rewards(scores, batch.log_prob, ref, (batch.weight > 0).sum(1), 0.1)
            batch = with_reference(estimate(batch, rewards, algorithm, 1.0, 1.0, scores, CAP), algorithm, ref, BETA)
            batch = batch.replace(inputs={name: x.double() for name, x in batch.inputs.items()})
            optimizer = FlatAdam(policy.parameters(), 0.01)
            task = UpdateTask(policy, batch, optimizer, split=lambda b, n=parts: b.split(n))
            algorithm.gradient(task)(batch)
            found.append(optimizer.gradient.clone())
    torch.testing.assert_close(found[0], found[1])
    torch.testing.assert_close(found[2], found[3])
