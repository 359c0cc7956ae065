"""What several ranks have measured in one iteration, as one: the same numbers on all of them."""

import json
from itertools import chain

import torch
from torch import Tensor

from proximo.scale.measured import Rules
from proximo.scale.mesh import Mesh

RULES = Rules(
    maxima={"sampler_gap"},
    squares={"value_rms", "return_rms", "return_std"},  # over tokens
    deviations={"score_std": "score"},
    errors={"kl_se"},
)
"""How metrics of ranks become one."""


def of_all(x: Tensor, mesh: Mesh) -> Tensor:
    """`[B]` of all ranks' responses, in the ranks' order."""
    return x if mesh.alone else x.new_tensor(list(chain(*mesh.gather_json(x.tolist()))))


def share_of_all(counted: float, total: float, mesh: Mesh) -> float:
    """`counted` of all ranks by their `total`."""
    counted, total = mesh.sum_across_ranks(torch.tensor([counted, total], dtype=torch.float64)).tolist()
    return counted / max(1, total)


def decided(ended: str | None, mesh: Mesh) -> str | None:
    """Why the run ends, or None, as rank 0 sees it: clocks differ."""
    return ended if mesh.alone else json.loads(mesh.broadcast_bytes(json.dumps(ended).encode()))
