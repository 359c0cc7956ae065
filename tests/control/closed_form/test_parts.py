"""A large minibatch is cut and shared by threads: the gradient is the whole one's, and the threads change no bit."""

import pytest
import torch
from derived import agree, batch_of, policy_of

from proximo.control.closed_form import parts
from proximo.control.closed_form.gradient import ClosedForm
from proximo.core.batch import Batch
from proximo.core.objectives import Objective
from proximo.core.updates.optimizer import FlatAdam

OBJECTIVE = Objective(clip=0.2, value_coefficient=0.7, entropy_coefficient=0.03, value_clip=0.3)
HEADS = ["gaussian", "categorical", "masked"]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(parts, "WORK", 1)  # parts of 64 samples, the least


def large(policy, head):
    """Samples that no number of parts divides, some of weight 0."""
    several = [batch_of(policy, seed=seed, masked=head == "masked") for seed in range(31)]
    first = several[0]
    rows = dict(first.named_tensors())
    for name in rows:
        rows[name] = torch.cat([dict(each.named_tensors())[name] for each in several])
    inputs = {name.removeprefix("inputs."): rows.pop(name) for name in list(rows) if name.startswith("inputs.")}
    return Batch(inputs=inputs, **rows)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("activation", ["tanh", "relu", "elu"])
def test_the_gradient_of_a_minibatch_that_is_cut_is_autograds(head, activation):
    policy = policy_of(head, hidden=(16, 8), activation=activation)
    batch = large(policy, head)
    assert len(batch) == 744
    agree(policy, batch, OBJECTIVE)


def told_by(policy, batch, threads):
    """All that a closed form says of a batch, with that many threads."""
    optimizer = FlatAdam(policy.parameters_by_layer(), 0.0)
    closed = ClosedForm(policy, threads)
    old = {"old": closed.tensors(batch)}
    statistics = closed.gradient(batch.replace(**old), OBJECTIVE)
    acted = closed.act(batch.inputs, generator=torch.Generator().manual_seed(1))
    tensors = [optimizer.gradient.clone(), acted.action, acted.output, closed.value(batch.inputs)]
    return [*tensors, *old["old"].values()], [*statistics.values(), closed.divergence(batch)]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_how_many_threads_there_are_changes_no_bit(head, dtype):
    policy = policy_of(head, hidden=(96, 33), activation="elu")
    batch = large(policy, head).map(lambda x: x.to(dtype) if x.is_floating_point() else x)
    policy.to(dtype)
    alone, numbers = told_by(policy, batch, 1)
    assert alone[0].abs().max() > 1e-3
    for threads in (1, 2, 3, 16):  # 1 once more: in other memory
        tensors, others = told_by(policy, batch, threads)
        assert all(torch.equal(a, b) for a, b in zip(alone, tensors, strict=True))
        assert others == numbers


def test_what_fails_in_a_thread_fails_here():
    policy = policy_of("gaussian")
    FlatAdam(policy.parameters_by_layer(), 0.0)
    batch = large(policy, "gaussian")
    with pytest.raises(ValueError, match="broadcast"):
        ClosedForm(policy, 3).gradient(batch.replace(action=batch.action[:, :2]), OBJECTIVE)


def test_a_small_minibatch_is_not_cut(monkeypatch):
    monkeypatch.setattr(parts.Parts, "add", None)
    policy = policy_of("gaussian")
    FlatAdam(policy.parameters_by_layer(), 0.0)
    assert ClosedForm(policy, 2).gradient(batch_of(policy), OBJECTIVE)["entropy"] != 0
