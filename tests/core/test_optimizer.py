import copy

import pytest
import torch
from torch import nn

from proximo.core.updates.optimizer import FlatAdam

F64 = torch.float64


def network(seed=0, dtype=F64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def loss(module, step):
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(step), dtype=F64)
    return 10 * (module(x.to(next(module.parameters()).dtype)) ** 2).mean()


def train(module, optimizer, steps, max_grad_norm=None):
    norms = []
    for step in steps:
        optimizer.zero_grad()
        loss(module, step).backward()
        norms.append(optimizer.step(max_grad_norm).item())
    return norms


@pytest.mark.parametrize("max_grad_norm", [None, 0.5, 1e6])
def test_twenty_steps_are_those_of_torchs_adam(max_grad_norm):
    ours, theirs = network(), network()
    flat, adam = FlatAdam(ours.parameters(), 1e-2), torch.optim.Adam(theirs.parameters(), lr=1e-2, eps=1e-5)
    norms = train(ours, flat, range(20), max_grad_norm)
    for step in range(20):
        adam.zero_grad()
        loss(theirs, step).backward()
        norm = nn.utils.clip_grad_norm_(theirs.parameters(), max_grad_norm or float("inf"))
        adam.step()
        assert norms[step] == pytest.approx(norm.item(), rel=1e-12)  # before clipping
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_the_first_step_by_hand():
    # m / (1 - b1) = g and v / (1 - b2) = g^2, so the first step is lr * g / (|g| + eps)
    parameter = nn.Parameter(torch.tensor([1.0, 2.0], dtype=F64))
    optimizer = FlatAdam([parameter], 0.1, epsilon=0.5)
    parameter.grad.copy_(torch.tensor([4.0, -0.5]))
    optimizer.step()
    assert parameter.tolist() == pytest.approx([1 - 0.1 * 4 / 4.5, 2 + 0.1 * 0.5 / 1.0], rel=1e-12)


def test_a_gradient_longer_than_the_limit_is_shortened_to_it():
    parameter = nn.Parameter(torch.zeros(2, dtype=F64))
    optimizer = FlatAdam([parameter], 0.1)
    parameter.grad.copy_(torch.tensor([3.0, 4.0]))
    assert optimizer.step(max_grad_norm=1.0).item() == 5.0
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)
    optimizer.step(max_grad_norm=2.0)
    assert parameter.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-6)


def test_parameters_and_gradients_are_views_of_one_vector():
    module = network()
    values = [p.detach().clone() for p in module.parameters()]
    optimizer = FlatAdam(module.parameters(), 1e-2)
    assert all(torch.equal(p, v) for p, v in zip(module.parameters(), values, strict=True))
    assert optimizer.flat.numel() == sum(v.numel() for v in values)
    storage = optimizer.flat.untyped_storage().data_ptr()
    assert {p.untyped_storage().data_ptr() for p in module.parameters()} == {storage}
    loss(module, 0).backward()
    assert torch.equal(torch.cat([p.grad.flatten() for p in module.parameters()]), optimizer.gradient)
    assert optimizer.gradient.abs().sum() > 0
    optimizer.zero_grad()
    assert all((p.grad == 0).all() for p in module.parameters())
    # A state dict loaded into the module reaches the vector.
    module.load_state_dict(network(seed=1).state_dict())
    assert torch.equal(optimizer.flat.detach(), torch.cat([p.detach().flatten() for p in network(seed=1).parameters()]))


def test_gradients_accumulate_until_emptied():
    module = network()
    optimizer = FlatAdam(module.parameters(), 1e-2)
    loss(module, 0).backward()
    once = optimizer.gradient.clone()
    loss(module, 0).backward()
    torch.testing.assert_close(optimizer.gradient, 2 * once, rtol=1e-12, atol=1e-14)


def test_a_step_moves_in_place():
    module = network()
    optimizer = FlatAdam(module.parameters(), 1e-2)
    weight, pointer = module[0].weight, module[0].weight.data_ptr()
    before = weight.detach().clone()
    train(module, optimizer, range(3))
    assert module[0].weight.data_ptr() == pointer
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("before", [0, 5])
def test_a_restored_optimizer_goes_on_bit_for_bit(before, dtype):
    first = network(dtype=dtype)
    optimizer = FlatAdam(first.parameters(), 1e-2)
    train(first, optimizer, range(before), 0.5)
    weights, state = copy.deepcopy(first.state_dict()), optimizer.state()
    train(first, optimizer, range(before, 10), 0.5)

    second = network(seed=9, dtype=dtype)
    restored = FlatAdam(second.parameters(), 1e-2)
    train(second, restored, range(3))  # moments to be overwritten
    second.load_state_dict(weights)
    restored.load_state(state)
    train(second, restored, range(before, 10), 0.5)
    assert torch.equal(restored.flat, optimizer.flat)
    assert all(torch.equal(restored.state()[name], x) for name, x in optimizer.state().items())


def test_a_state_is_a_snapshot():
    module = network()
    optimizer = FlatAdam(module.parameters(), 1e-2)
    assert optimizer.state() == {}
    train(module, optimizer, range(2))
    state = optimizer.state()
    kept = copy.deepcopy(state)
    other = FlatAdam(network(seed=1).parameters(), 1e-2)
    other.load_state(state)
    train(module, optimizer, range(2))
    other.gradient.fill_(1.0)
    other.step()
    assert state["step"] == 2
    assert all(torch.equal(state[name], kept[name]) for name in kept)


def test_the_learning_rate_can_be_changed_between_steps():
    parameter = nn.Parameter(torch.zeros(1, dtype=F64))
    optimizer = FlatAdam([parameter], 0.1, epsilon=1e-12)
    assert optimizer.learning_rate == 0.1
    optimizer.learning_rate = 0.25
    assert optimizer.learning_rate == 0.25
    parameter.grad.fill_(3.0)
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.25)
    optimizer.learning_rate = 0.0
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.25)


def test_what_can_not_be_one_vector_is_refused():
    with pytest.raises(ValueError, match="at least one parameter"):
        FlatAdam([], 1e-3)
    with pytest.raises(ValueError, match="one type"):
        FlatAdam([nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1, dtype=F64))], 1e-3)


def test_the_state_of_another_network_is_refused():
    module = network()
    optimizer = FlatAdam(module.parameters(), 1e-2)
    train(module, optimizer, range(1))
    other = FlatAdam([nn.Parameter(torch.zeros(4, dtype=F64))], 1e-2)
    with pytest.raises(ValueError, match="32 parameters, network has 4"):
        other.load_state(optimizer.state())
