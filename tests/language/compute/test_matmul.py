"""Faster products and fused adapters give the numbers of torch and peft; freed memory is kept."""

import subprocess
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import llama

from proximo.language.compute import matmul as products
from proximo.language.compute.lora import FusedLoraLinear
from proximo.language.compute.lora import fused as fused_layers
from proximo.language.compute.matmul import ProductLinear, product, use_products


@pytest.fixture(params=[True, False], ids=["onednn", "torch"])
def either(request, monkeypatch):
    """Both ways, whatever processor runs the test."""
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise"), "this torch has another name for oneDNN's product"
    monkeypatch.setattr(products, "onednn_is_faster", lambda: request.param)
    return request.param


@pytest.mark.parametrize("shape", [(1, 5, 3), (7, 64, 33), (0, 5, 3), (130, 96, 257)])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_product_is_the_sum_that_it_stands_for(either, shape, transposed):
    n, d, m = shape
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((n, d), (m, d), (m,)))
    if transposed:  # the same numbers, laid out the other way
        x, weight = x.t().contiguous().t(), weight.t().contiguous().t()
    exact = x.double() @ weight.double().t()
    torch.testing.assert_close(product(x, weight).double(), exact, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(product(x, weight, bias).double(), exact + bias, rtol=1e-5, atol=1e-4)


def test_a_model_with_these_products_has_the_same_gradients_and_names(either):
    plain, fast = llama(), use_products(llama())
    assert any(isinstance(m, ProductLinear) for m in fast.modules()) == either
    assert plain.state_dict().keys() == fast.state_dict().keys()
    tokens = torch.arange(12).view(3, 4)
    for model in (plain, fast):
        logits = model(input_ids=tokens).logits
        logits.sum(-1).mean().backward()  # its gradient is an expanded tensor, with strides of 0
    for (name, mine), theirs in zip(fast.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_frozen_weights_get_no_gradient_and_autocast_is_obeyed(either):
    layer = use_products(torch.nn.Sequential(torch.nn.Linear(6, 4)))
    layer.requires_grad_(False)
    x = torch.randn(2, 3, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer[0].weight.grad is None
    torch.testing.assert_close(x.grad, layer[0].weight.sum(0).expand(2, 3, 6))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


def adapted(fused, adapters=("default",), dropout=0.0):
    torch.manual_seed(0)
    settings = LoraConfig(r=3, lora_alpha=5, lora_dropout=dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    if fused:
        settings = fused_layers(settings)
    model = get_peft_model(llama(), settings)
    for name in adapters[1:]:
        model.add_adapter(name, settings)
    model.base_model.set_adapter(list(adapters))
    generator = torch.Generator().manual_seed(1)
    for name, p in model.named_parameters():
        if "lora_" in name:  # B starts at 0, which would hide it
            p.data = torch.randn(p.shape, generator=generator) * 0.1
    return model


@pytest.mark.parametrize("adapters", [("default",), ("default", "other")])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_a_fused_adapter_is_pefts(either, adapters, dropout):
    """Outputs and gradients; two adapters and dropout take peft's own way."""
    mine, theirs = (adapted(fused, adapters, dropout) for fused in (True, False))
    assert any(isinstance(m, FusedLoraLinear) for m in mine.modules())
    tokens = torch.arange(10).view(2, 5)
    outputs = []
    for model in (mine, theirs):
        torch.manual_seed(2)
        outputs.append(model(input_ids=tokens).logits)
        outputs[-1].square().mean().backward()
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    pairs = zip(mine.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, a), (also, b) in pairs:
        assert name == also
        if b.grad is None:
            assert a.grad is None, name
        else:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-6, msg=name)
    with mine.disable_adapter(), theirs.disable_adapter():
        torch.testing.assert_close(mine(input_ids=tokens).logits, theirs(input_ids=tokens).logits)


def test_freed_memory_is_used_again():
    """Page faults of large tensors that come and go, counted by the kernel: few once the process has grown."""
    script = """
import resource
from proximo.language.compute.malloc import keep_freed_memory
assert keep_freed_memory(), "the C library is not glibc"
import torch
torch.set_num_threads(1)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16_000_000).exp()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(10)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 3_000  # mapped anew in small pages, 128 MB are 31,252


def test_freed_memory_that_lies_in_pieces_is_given_back():
    """300 MB in pieces of 1.2, of which every fortieth stays: the system has most of the rest back."""
    script = """
from proximo.language.compute.malloc import FreedMemory, keep_freed_memory
from proximo.runs.system import resident_memory
assert keep_freed_memory(), "the C library is not glibc"
import torch
freed, before = FreedMemory(), resident_memory()
freed.tidy()
pieces = [torch.ones(300_000) for _ in range(250)]
pieces = pieces[::40]
held = resident_memory() - before
freed.tidy()
print(held, resident_memory() - before, sum(float(piece.sum()) for piece in pieces) == 300_000 * len(pieces))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    held, left, whole = done.stdout.split()
    assert float(held) > 200
    assert float(left) < 60
    assert whole == "True"


def test_what_an_earlier_stage_freed_is_given_back_before_the_next_one_begins():
    script = """
from proximo.language.compute.malloc import FreedMemory, keep_freed_memory
from proximo.runs.system import resident_memory
assert keep_freed_memory(), "the C library is not glibc"
import torch
before = resident_memory()
stage = {"weights": [torch.ones(300_000) for _ in range(250)]}
stage["itself"] = stage  # a cycle, as trainings have them
stage = torch.ones(1)
held = resident_memory() - before
FreedMemory()
print(held, resident_memory() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    held, left = map(float, done.stdout.split())
    assert held > 200
    assert left < 60
