"""What a run will hold in memory, component by component, against what there is."""

from collections.abc import Iterable

import torch
from torch import Tensor

from proximo.language.ppo.preflight.check import Check
from proximo.language.ppo.training import PPOTraining
from proximo.language.rewards.classifier import ClassifierReward
from proximo.language.rewards.terms import ModelReward
from proximo.language.roles.lm_head import CHUNK_BYTES, KEPT_BYTES
from proximo.runs.system import available_memory, resident_memory

TIGHT = 0.9  # share of the memory beyond which an estimate is too close to call
_PER_WIDTH, _PER_INNER = 12, 5
"""Tensors as wide as the model, and as its inner layer, that a decoder layer keeps for the backward pass: norms, the
projections of attention, residuals; gate, up, their product and its parts."""


def predicted(training: PPOTraining) -> dict[str, int]:
    """Bytes by component. Weights, gradients and moments are counted; activations are estimated for decoder layers like
    Llama's.
    """
    config, roles = training.config, training.roles
    trained = training.optimizer.flat
    models = [term.model.model for term in training.rewards if isinstance(term, ModelReward | ClassifierReward)]
    shape = roles.model.config.get_text_config()
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    head_width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    longest = max(len(p.tokens) for p in training.prompts.prompts) + config.response_limit
    minibatch = (config.update.minibatch_size or config.batch) * longest
    tokens = min(max(config.token_budget, longest), minibatch)
    inner = getattr(shape, "intermediate_size", None) or 4 * shape.hidden_size
    layers = _layers_with_gradient(training)
    return {
        "policy, reference and critic": _bytes(roles.parameters()),
        "reward models": _bytes(p for model in models for p in model.parameters()),
        "gradient and moments": 3 * trained.numel() * trained.element_size(),
        "whole weights while sampling": _whole(training),
        # In main memory: on a GPU it is no part of what has to fit.
        "copy to undo an update": 3 * trained.numel() * trained.element_size()
        if config.undo and trained.device.type == "cpu"
        else 0,
        "activations": 4 * tokens * layers * (_PER_WIDTH * shape.hidden_size + _PER_INNER * inner),
        "logits": 3 * CHUNK_BYTES + KEPT_BYTES,
        "keys and values": 4 * config.batch * longest * shape.num_hidden_layers * 2 * heads * head_width,
    }


def fits(training: PPOTraining) -> Check:
    """The sum against the memory that is free or already this process's."""
    parts = predicted(training)
    need = sum(parts.values())
    seen = f"about {need / 2**30:.1f} GB: " + ", ".join(
        f"{name} {size / 2**30:.1f}" for name, size in parts.items() if size >= 2**26
    )
    there = _there(training.device, training.mesh.local_size)
    if there is None:
        return Check("memory suffices", "skip", seen)
    seen += f"; there are {there / 2**30:.1f} GB"
    if need <= TIGHT * there:
        return Check("memory suffices", "pass", seen)
    remedy = "lower token_budget or batch, or share weights (sharing.mode lora or top_layers)"
    return Check("memory suffices", "fail" if need > there else "warn", seen, remedy)


def _there(device: torch.device, ranks: int) -> float | None:
    """Bytes that one of so many ranks of this machine can have, each of which takes as much."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
    free, mine = available_memory(), resident_memory()
    return None if free is None or mine is None else (free / ranks + mine) * 2**20


def _layers_with_gradient(training: PPOTraining) -> int:
    sharing, shape = training.config.sharing, training.roles.model.config.get_text_config()
    own = sharing.top_layers if sharing.mode == "top_layers" else shape.num_hidden_layers
    return int(own) * (2 if sharing.critic == "separate" else 1)


def _whole(training: PPOTraining) -> int:
    """Adapters are added into copies of their layers' weights for the sampler; weights in parts are gathered for it."""
    if training.spread:
        return sum(p.numel() * p.element_size() for p in training.roles.model.parameters())
    if training.config.sharing.mode != "lora":
        return 0
    from peft.tuners.lora import LoraLayer

    layers = [m for m in training.roles.modules() if isinstance(m, LoraLayer)]
    return _bytes(layer.get_base_layer().weight for layer in layers)  # type: ignore[misc]


def _bytes(tensors: Iterable[Tensor]) -> int:
    here = [getattr(x, "_local_tensor", x) for x in tensors]  # of one in parts, this rank's
    known = {x.data_ptr(): x.numel() * x.element_size() for x in here}  # shared ones once
    return sum(known.values())
