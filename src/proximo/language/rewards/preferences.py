"""Preferences between two texts: the Bradley-Terry loss, and how well scores tell them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from proximo.language.data.dataset import Pair
from proximo.language.rewards.chance import standard_error

_EDGES = (0.0, 0.5, 1.0, 2.0)  # of the buckets by difference; the last one is open


def bradley_terry(chosen: Tensor, rejected: Tensor, label: Tensor, margin: Tensor | float = 0.0) -> Tensor:
    """-p log σ(Δ) - (1 - p) log σ(-Δ) with Δ = r_chosen - r_rejected - margin, for each pair.

    Args:
        chosen: `[n]`, scores.
        rejected: `[n]`.
        label: `[n]`, p: the share of people who preferred chosen, in [0, 1].
        margin: `[n]` or a number.

    Returns:
        `[n]`, nats; the gradient to Δ is σ(Δ) - p.
    """
    delta = chosen - rejected - margin
    return -(label * logsigmoid(delta) + (1.0 - label) * logsigmoid(-delta))


def agreement(delta: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Whether the text with the label above 1/2 has the higher score, for each pair.

    Args:
        delta: `[n]`, score of chosen - score of rejected.
        label: `[n]`, see `bradley_terry`.

    Returns:
        `[n]`: 1 or 0, 1/2 where the scores tie, and NaN at even odds, where no answer is right.
    """
    told = np.where(delta == 0, 0.5, (delta > 0) == (label > 0.5))
    return np.where(label == 0.5, np.nan, told)


def preference_report(pairs: Sequence[Pair], chosen: Tensor, rejected: Tensor, scale: float = 1.0) -> dict[str, Any]:
    """How well scores tell what people preferred.

    An accuracy is the mean `agreement`; pairs at even odds are left out of it, and so is an accuracy of no pair.

    Args:
        pairs: what was scored.
        chosen: `[n]`, scores.
        rejected: `[n]`.
        scale: scores times this are on the scale on which the loss was taken.

    Returns:
        loss, accuracy, accuracy_se (a coin's on these pairs, see `standard_error`), accuracy by difference
        (`accuracy/difference>1`) and by source (`accuracy/source/NAME`), the calibration error, and `calibration`: per
        tenth of the predicted P(chosen), count, mean prediction and label.
    """
    label = np.array([p.label for p in pairs])
    delta = (chosen - rejected).double().cpu().numpy()
    told = agreement(delta, label)
    decided = ~np.isnan(told)
    known = np.array([np.nan if p.difference is None else abs(p.difference) for p in pairs])
    groups = {"accuracy": decided}
    for low, high in zip(_EDGES, (*_EDGES[1:], np.inf), strict=True):
        name = f"{low:g}-{high:g}" if high < np.inf else f">{low:g}"
        groups[f"accuracy/difference {name}"] = decided & (known > low) & (known <= high)
    groups["accuracy/difference>1"] = decided & (known > 1)
    for source in sorted({p.source for p in pairs} - {""}):
        groups[f"accuracy/source/{source}"] = decided & np.array([p.source == source for p in pairs])
    report: dict[str, Any] = {"pairs": len(pairs)}
    report |= {name: float(told[group].mean()) for name, group in groups.items() if group.any()}
    if decided.any():
        judged = [pair for pair, counts in zip(pairs, decided, strict=True) if counts]
        texts = {tuple(side) for pair in judged for side in (pair.chosen, pair.rejected)}
        report["accuracy_se"] = standard_error(len(judged), len(texts))
    margin = torch.tensor([p.margin for p in pairs], dtype=torch.float64)
    scaled = torch.from_numpy(delta) * scale
    report["loss"] = float(bradley_terry(scaled, torch.zeros_like(scaled), torch.from_numpy(label), margin).mean())
    curve = calibration(torch.sigmoid(scaled - margin).numpy(), label)
    report["calibration"] = curve
    report["calibration_error"] = sum(b["pairs"] * abs(b["predicted"] - b["label"]) for b in curve) / len(pairs)
    return report


def calibration(predicted: np.ndarray, label: np.ndarray, bins: int = 10) -> list[dict[str, float]]:
    """Predicted P(chosen preferred) against the share of people who did, per bin of equal width.

    Both ways round count (P and 1 - P), as which text stands first says nothing. Empty bins are left out.
    """
    p, y = np.concatenate([predicted, 1 - predicted]), np.concatenate([label, 1 - label])
    place = np.minimum((p * bins).astype(int), bins - 1)
    return [
        {"pairs": float(group.sum()) / 2, "predicted": float(p[group].mean()), "label": float(y[group].mean())}
        for group in (place == b for b in range(bins))
        if group.any()
    ]


def evaluate(scorer: Any, pairs: Sequence[Pair], scale: float = 1.0) -> dict[str, Any]:
    """`preference_report` of a scorer on pairs; each text is scored once."""
    texts, chosen, rejected = unique_texts(pairs)
    scores = scorer.score(texts)
    return preference_report(pairs, scores[chosen], scores[rejected], scale)


def unique_texts(pairs: Sequence[Pair]) -> tuple[list[list[int]], Tensor, Tensor]:
    """The texts of pairs, each once, and for each pair the index of its chosen and its rejected text."""
    known: dict[tuple[int, ...], int] = {}
    chosen = torch.tensor([known.setdefault(tuple(p.chosen), len(known)) for p in pairs])
    rejected = torch.tensor([known.setdefault(tuple(p.rejected), len(known)) for p in pairs])
    return [list(text) for text in known], chosen, rejected
