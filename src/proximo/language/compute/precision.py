"""The type of the matrix products: bfloat16 where the processor multiplies in it, float32 elsewhere."""

import os
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

import torch

Type = Literal["float32", "bfloat16"]
"""What matrix products can be computed in."""


def computing(device: torch.device, compute: str) -> torch.autocast:
    """The context in which matrix products have the type that `compute` names (see `chosen_type`)."""
    return torch.autocast(device.type, torch.bfloat16, enabled=chosen_type(compute, device) == "bfloat16")


def chosen_type(compute: str, device: torch.device) -> Type:
    """`float32` or `bfloat16`: what is named, or for `auto` what `device` is fast in."""
    if compute in get_args(Type):
        return cast(Type, compute)
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether a device has instructions for bfloat16 products; without them torch emulates them, several times slower.

    On a CPU these are AVX-512 BF16 and AMX. `ATEN_CPU_CAPABILITY` and `ONEDNN_MAX_CPU_ISA`, by which a user holds torch
    to fewer instructions, count as torch counts them.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu" or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    amx = allowed in ("ALL", "DEFAULT") or "AMX" in allowed
    vectors = amx or allowed in ("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512")
    flags = processor_flags()
    return (amx and "amx_bf16" in flags) or (vectors and "avx512_bf16" in flags)


@cache
def processor_flags() -> frozenset[str]:
    """Instruction sets by Linux's names; empty where Linux does not run."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())


def said_of(compute: str, device: torch.device, *, chosen: bool, kept: bool) -> str:
    """What is to be known of the type in a sentence: how it was chosen, or that it is slow here; "" if neither."""
    name = "GPU" if device.type == "cuda" else "processor"
    fast = multiplies_bfloat16(device)
    if compute == "bfloat16" and not fast:
        return (
            f"matrix products in bfloat16, which this {name} has no instructions for: they are emulated, several times "
            'slower than float32; a new run with compute = "auto" takes the faster type'
        )
    if not chosen:
        return ""
    if kept and (compute == "bfloat16") != fast:
        return f"matrix products in {compute}, which the run was begun with"
    return f"matrix products in {compute}: this {name} has {'' if fast else 'no '}instructions for bfloat16"
