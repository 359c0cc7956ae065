"""A gradient that is recorded and replayed is the gradient: here with a recorder that repeats the work on the spot."""

import pytest
import torch
from torch import nn

from proximo.core.batch import Batch, Evaluation
from proximo.core.graphed import GraphedGradient
from proximo.core.objectives import Objective
from proximo.core.optimizer import FlatAdam
from proximo.core.settings import UpdateSettings
from proximo.core.update import autograd_gradient, update

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


class Recorder:
    """Warms up as a CUDA graph does, and repeats the work into the same tensors; remembers how often it was asked."""

    recorded = 0

    def __call__(self, work):
        self.recorded += 1
        for _ in range(3):
            work()
        kept = [x.clone() for x in work()]

        def replay():
            for fixed, x in zip(kept, work(), strict=True):
                fixed.copy_(x)

        return replay, type(work())(*kept)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.actor, self.critic = nn.Linear(3, 2), nn.Linear(3, 1)

    def evaluate(self, batch):
        log_probs = self.actor(batch.inputs["x"]).log_softmax(-1)
        chosen = log_probs.gather(1, batch.action.long()).squeeze(1)
        entropy = -(log_probs.exp() * log_probs).sum(1)
        return Evaluation(chosen, entropy, self.critic(batch.inputs["x"]).squeeze(1))


def learnt(device, settings, record, graphed):
    policy = Policy().to(device)
    optimizer = FlatAdam(policy.parameters(), 0.05)
    gradient = autograd_gradient(policy)
    gradient = GraphedGradient(gradient, optimizer.gradient, record) if graphed else gradient
    generator = torch.Generator().manual_seed(1)
    for iteration in range(3):
        x = torch.randn(32, 3, generator=generator)
        action = torch.randint(0, 2, (32, 1), generator=generator).float()
        weight = (torch.rand(32, generator=generator) > 0.2).float()
        rest = torch.randn(2, 32, generator=generator)
        zeros = torch.zeros(32)
        batch = Batch({"x": x}, action, zeros, zeros, *rest, weight).map(lambda t: t.to(device))
        with torch.no_grad():
            seen = policy.evaluate(batch)
        batch = batch.replace(log_prob=seen.log_prob, value=seen.value)
        shuffle = torch.Generator().manual_seed(iteration)
        report = update(
            policy, batch, optimizer, settings, progress=iteration / 3, generator=shuffle, gradient=gradient
        )
    return optimizer.flat, report


@pytest.mark.parametrize("clip", [0.2, "0.3 -> 0.1"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_gpu)])
def test_learning_through_a_recorded_gradient_is_learning(clip, device):
    settings = UpdateSettings(epochs=3, minibatch_size=8, clip=clip, entropy_coefficient=0.01, target_kl=0.5)
    record = Recorder() if device == "cpu" else None
    weights, report = learnt(device, settings, record, graphed=True)
    expected, told = learnt(device, settings, record, graphed=False)
    exact = {"rtol": 0, "atol": 0} if device == "cpu" else {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(weights, expected, **exact)
    assert report.values == pytest.approx(told.values, rel=1e-5, abs=1e-6)
    if record is not None:
        assert record.recorded == (1 if clip == 0.2 else 3), "anew for each objective, never for a minibatch"


def test_another_shape_is_recorded_anew():
    policy, record = Policy(), Recorder()
    optimizer = FlatAdam(policy.parameters(), 0.0)
    gradient = GraphedGradient(autograd_gradient(policy), optimizer.gradient, record)
    for size in (4, 4, 6, 6):
        ones = torch.ones(size)
        gradient(Batch({"x": torch.randn(size, 3)}, torch.zeros(size, 1), -ones, ones, ones, ones, ones), Objective())
    assert record.recorded == 2
