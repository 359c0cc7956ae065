"""What several ranks have measured in one iteration, as one: the same numbers on all of them."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from torch import Tensor

from proximo.scale.mesh import Mesh

_MAXIMA = {"sampler_gap"}
_SQUARES = {"value_rms", "return_rms", "return_std"}
"""Root mean squares over tokens; the deviation of returns is that within ranks."""
_FIRST = {"kl_coefficient", "sampler_log_probs"}
"""The same on all."""
_DEVIATIONS = {"score_std": "score"}
"""Standard deviations, and the means that they are taken around."""


def of_all(x: Tensor, mesh: Mesh) -> Tensor:
    """`[B]` of all ranks' responses, in the ranks' order."""
    return x if mesh.alone else x.new_tensor(list(chain(*mesh.gather_json(x.tolist()))))


def merged(metrics: Mapping[str, Any], responses: int, tokens: float, mesh: Mesh) -> dict[str, Any]:
    """Metrics of all ranks as one: means over all responses, or over all of their tokens.

    Args:
        metrics: of this rank by name; a reward that applied to no response of a rank may be missing, or None.
        responses: of this rank.
        tokens: of these responses.
        mesh: of the run.
    """
    if mesh.alone:
        return dict(metrics)
    rows = mesh.gather_json([responses, tokens, dict(metrics)])
    told = {}
    for name in dict.fromkeys(name for *_, row in rows for name in row):
        seen = [(t if name in _SQUARES else n, row[name], row) for n, t, row in rows if row.get(name) is not None]
        told[name] = _one(name, seen)
    return told


def _one(name: str, seen: Sequence[tuple[float, Any, Mapping[str, Any]]]) -> Any:
    if not seen:
        return None
    if name in _FIRST or isinstance(seen[0][1], str):
        return seen[0][1]
    if name in _MAXIMA:
        return max(x for _, x, _ in seen)
    total = sum(n for n, _, _ in seen)

    def mean(values: Sequence[float]) -> float:
        return sum(n * x for (n, _, _), x in zip(seen, values, strict=True)) / total

    values = [x for _, x, _ in seen]
    if name in _SQUARES:
        return math.sqrt(mean([x * x for x in values]))
    if name == "kl_se":  # of a mean of means
        return math.sqrt(sum((n * x) ** 2 for n, x, _ in seen)) / total
    if name in _DEVIATIONS:
        centres = [row[_DEVIATIONS[name]] for _, _, row in seen]
        return math.sqrt(mean([x * x + (c - mean(centres)) ** 2 for x, c in zip(values, centres, strict=True)]))
    return mean(values)


def decided(ended: str | None, mesh: Mesh) -> str | None:
    """Why the run ends, or None, as rank 0 sees it: clocks differ."""
    return ended if mesh.alone else json.loads(mesh.broadcast_bytes(json.dumps(ended).encode()))
