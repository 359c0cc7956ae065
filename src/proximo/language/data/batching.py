"""Rows of unlike length in few batches with little padding."""

from collections.abc import Sequence

import torch
from torch import Tensor


def token_budget_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Rows grouped by length, so that rows x longest of a group stays within the budget.

    Args:
        lengths: tokens per row.
        budget: tokens of a group, padding included; a row that is longer stands alone.

    Returns:
        Indices, the longest rows first: what runs out of memory does so at once.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    groups: list[list[int]] = []
    for i in order:
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


def padded_share(lengths: Sequence[int], groups: Sequence[Sequence[int]]) -> float:
    """Share of a grouping's tokens that are padding, in [0, 1)."""
    paid = sum(len(group) * max(lengths[i] for i in group) for group in groups)
    return 1.0 - sum(lengths) / paid if paid else 0.0


def right_padded(rows: Sequence[Sequence[int]], fill: int = 0) -> tuple[Tensor, Tensor]:
    """Token ids as one tensor, and their lengths.

    Padding follows, and attention is causal: no mask is needed, and any id may fill.

    Returns:
        `(tokens [b, L], lengths [b])`.
    """
    longest = max(map(len, rows))
    tokens = torch.tensor([list(row) + [fill] * (longest - len(row)) for row in rows])
    return tokens, torch.tensor([len(row) for row in rows])
