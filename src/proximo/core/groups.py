"""Scores compared within groups: the responses to one prompt, which lie side by side."""

import torch
from torch import Tensor


def leave_one_out(scores: Tensor, group: int) -> Tensor:
    """Each score less the mean of the others of its group (Kool et al. 2019; Ahmadian et al. 2024, eq. 8).

    The baseline does not depend on the response that it is taken off, so the policy gradient keeps its mean.

    Args:
        scores: `[B]`, `group` of them for each prompt.
        group: 2 or more.

    Returns:
        `[B]`.
    """
    rows = scores.view(-1, group)
    others = (rows.sum(1, keepdim=True) - rows) / (group - 1)
    return (rows - others).flatten()


def relative(scores: Tensor, group: int, scale: str, epsilon: float = 1e-4) -> Tensor:
    """Each score less the mean of its group, in units of a standard deviation (Shao et al. 2024, section 4.1.2).

    Args:
        scores: `[B]`, `group` of them for each prompt.
        group: 2 or more.
        scale: whose deviation: `group`, `batch`, or `off` for none (Liu et al. 2025, arXiv 2503.20783).
        epsilon: added to the deviation.

    Returns:
        `[B]`; 0 for a group whose scores are all equal.
    """
    rows = scores.view(-1, group)
    centred = rows - rows.mean(1, keepdim=True)
    # Equal scores differ from their mean by rounding, which a deviation of 0 would blow up.
    centred = torch.where((rows == rows[:, :1]).all(1, keepdim=True), 0.0, centred)
    if scale == "group":
        centred = centred / (rows.std(1, keepdim=True) + epsilon)
    elif scale == "batch":
        centred = centred / (scores.std() + epsilon)
    return centred.flatten()
