"""The fused head against torch's own log-softmax: values, and gradients through autograd."""

import pytest
import torch

from proximo.language.roles import lm_head as head
from proximo.language.roles.lm_head import token_log_probs


def reference(hidden, weight, targets, temperature, bias):
    log_p = ((hidden @ weight.T + (0 if bias is None else bias)) / temperature).log_softmax(-1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_values_and_gradients_are_those_of_log_softmax(monkeypatch, frozen, biased, temperature, chunk_rows):
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 11 * chunk_rows)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(*s, generator=generator, requires_grad=True) for s in ((7, 5), (11, 5)))
    bias = torch.randn(11, generator=generator, requires_grad=True) if biased else None
    targets = torch.randint(11, (7,), generator=generator)
    ups = torch.randn(2, 7, generator=generator)
    for tensor in (weight, bias):
        if tensor is not None:
            tensor.requires_grad_(not frozen)
    asked = [x for x in (hidden, weight, bias) if x is not None and x.requires_grad]
    seen, expected = (
        f(hidden, weight, targets)
        for f in (
            lambda h, w, y: token_log_probs(h, w, y, temperature=temperature, bias=bias, need_entropy=True),
            lambda h, w, y: reference(h, w, y, temperature, bias),
        )
    )
    for mine, theirs in zip(seen, expected, strict=True):
        torch.testing.assert_close(mine, theirs)
    mine = torch.autograd.grad((ups[0] * seen[0] + ups[1] * seen[1]).sum(), asked)
    theirs = torch.autograd.grad((ups[0] * expected[0] + ups[1] * expected[1]).sum(), asked)
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kept_rows", [0, 6, 7])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_gradients_with_the_softmax_kept_or_computed_again(monkeypatch, kept_rows, temperature):
    """Twice through the same graph, too: what is kept is not used up."""
    monkeypatch.setattr(head, "KEPT_BYTES", 4 * 11 * kept_rows)
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 11 * 3)
    generator = torch.Generator().manual_seed(0)
    shapes = ((7, 5), (11, 5), (11,))
    asked = [torch.randn(*s, generator=generator, requires_grad=True) for s in shapes]
    hidden, weight, bias = asked
    targets, up = torch.randint(11, (7,), generator=generator), torch.randn(7, generator=generator)
    mine, _ = token_log_probs(hidden, weight, targets, temperature=temperature, bias=bias)
    theirs, _ = reference(hidden, weight, targets, temperature, bias)
    torch.testing.assert_close(mine, theirs)
    expected = torch.autograd.grad((up * theirs).sum(), asked)
    for _ in range(2):
        seen = torch.autograd.grad((up * mine).sum(), asked, retain_graph=True)
        for a, b in zip(seen, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_entropy_without_gradient_keeps_its_value():
    hidden, weight = torch.randn(4, 5, requires_grad=True), torch.randn(9, 5)
    targets = torch.randint(9, (4,))
    log_prob, entropy = token_log_probs(hidden, weight, targets)
    torch.testing.assert_close(entropy, reference(hidden, weight, targets, 1.0, None)[1])
    assert log_prob.requires_grad
    assert not entropy.requires_grad


def test_never_holds_all_logits(monkeypatch):
    """More rows than a chunk holds: no tensor of rows x vocabulary is ever made."""
    rows, vocabulary = 64, 512
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * vocabulary * 8)
    monkeypatch.setattr(head, "KEPT_BYTES", 4 * vocabulary * 8)
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    hidden, weight = torch.randn(rows, 4, requires_grad=True), torch.randn(vocabulary, 4, requires_grad=True)
    with Watch():
        log_prob, _ = token_log_probs(hidden, weight, torch.zeros(rows, dtype=torch.long))
        log_prob.sum().backward()
    assert largest == 8 * vocabulary


def test_nothing_is_kept_without_a_backward_pass_and_the_numbers_are_those_of_a_frozen_head(monkeypatch):
    """KL to the reference is exactly 0 only if a trained head and a frozen one add in the same order."""
    monkeypatch.setattr(head, "CHUNK_BYTES", 4 * 11 * 3)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(8, 5, generator=generator), torch.randn(11, 5, generator=generator)
    targets = torch.randint(11, (8,), generator=generator)
    frozen, _ = token_log_probs(hidden, weight, targets)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.numel()) or x, lambda x: x):
        with torch.no_grad():
            trained, _ = token_log_probs(hidden, weight.requires_grad_(), targets)
        assert not saved
        learning, _ = token_log_probs(hidden, weight, targets)
        assert 3 * 11 in saved
    assert torch.equal(frozen, trained)
    assert torch.equal(frozen, learning)


def test_refuses_temperature_zero():
    with pytest.raises(ValueError, match=r"temperature = 0.0 must be positive"):
        token_log_probs(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(1, dtype=torch.long), temperature=0.0)


@pytest.mark.parametrize("frozen", [True, False])
def test_autocast_does_not_reach_the_head(frozen):
    """Log-probs and gradients are float32's of the states that came in, whatever the trunk was computed in."""
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(7, 32, generator=generator).bfloat16()
    weight = torch.randn(50, 32, generator=generator, requires_grad=not frozen)
    targets = torch.randint(50, (7,), generator=generator)
    results = []
    for half in (True, False):
        hidden = (states if half else states.float()).detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            log_prob, _ = token_log_probs(hidden, weight, targets)
        asked = [hidden] if frozen else [hidden, weight]
        results.append([log_prob, *torch.autograd.grad(log_prob.sum(), asked)])
    assert results[0][0].dtype == torch.float32
    assert torch.equal(results[0][0], results[1][0])
    for mine, theirs in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(mine, theirs.to(mine.dtype))
