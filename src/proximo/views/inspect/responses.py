"""Responses of a recorded iteration, for someone who looks at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from proximo.errors import UserError, nearest
from proximo.language.ppo.tokens.record import TokenRecord
from proximo.views.inspect.pieces import Pieces

BY = ("advantage", "kl", "value")
QUANTILE = 0.95
"""Of a column's sizes in the iteration: what has full colour."""
_WHY_NOT = {"kl": "this run has no reference (kl.coefficient = 0)", "value": "its algorithm learns no values"}


@dataclass(frozen=True)
class Part:
    """One part of a response's reward; the amounts of all parts add up to the total."""

    name: str
    amount: float
    how: str = ""
    """What it was made from."""


@dataclass(frozen=True)
class Response:
    """One response, taken apart."""

    number: int
    """In its iteration, from 0."""
    prompt: str
    tokens: tuple[str, ...]
    ids: tuple[int, ...]
    columns: Mapping[str, tuple[float, ...]]
    """`log_prob`, `advantage`, and `reference`, `kl` and `value` where there are any; one number for each token."""
    finished: bool
    score: float
    parts: tuple[Part, ...]
    total: float
    """The reward that it was learnt from."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        names = ("number", "prompt", "finished", "score", "total")
        return {name: getattr(self, name) for name in names} | {
            "tokens": [
                {"text": text, "id": token, **{name: column[i] for name, column in self.columns.items()}}
                for i, (text, token) in enumerate(zip(self.tokens, self.ids, strict=True))
            ],
            "reward": [{"name": part.name, "amount": part.amount, "how": part.how} for part in self.parts],
        }


def column_of(record: TokenRecord, by: str) -> np.ndarray:
    """float32 `[N]`: the column that tokens are coloured by.

    Raises:
        UserError: there is no such column.
    """
    if by not in BY:
        raise UserError(f"by = {by!r} is none of {', '.join(BY)}: did you mean {nearest(by, BY) or BY[0]}?")
    column: np.ndarray | None = getattr(record, by)
    if column is None:
        raise UserError(f"there is no {by} of each token: {_WHY_NOT[by]}; choose another one")
    return column.astype(np.float32)


def scale_of(record: TokenRecord, by: str) -> float:
    """The 95th percentile of a column's sizes in the iteration."""
    return float(np.quantile(np.abs(column_of(record, by)), QUANTILE))


def worst(record: TokenRecord) -> list[int]:
    """Numbers of the responses, the lowest score first."""
    return [int(i) for i in np.argsort(record.score, kind="stable")]


def responses(record: TokenRecord, numbers: Sequence[int], pieces: Pieces) -> list[Response]:
    """Some responses of an iteration.

    Args:
        record: the iteration.
        numbers: which, from 0.
        pieces: decodes tokens.
    """
    names = {"log_prob": "log_prob", "reference": "ref_log_prob", "kl": "kl", "value": "value"}
    names |= {"advantage": "advantage"}
    found = {name: column for name, key in names.items() if (column := getattr(record, key)) is not None}
    columns = {name: record.of_responses(column.astype(np.float32)) for name, column in found.items()}
    ids, prompts = record.of_responses(record.tokens), record.prompts
    return [
        Response(
            number=i,
            prompt=pieces.whole(prompts[i]),
            tokens=tuple(pieces(ids[i].tolist())),
            ids=tuple(ids[i].tolist()),
            columns={name: tuple(each[i].tolist()) for name, each in columns.items()},
            finished=bool(record.finished[i]),
            score=float(record.score[i]),
            parts=parts_of(record, i),
            total=float(record.total[i]),
        )
        for i in numbers
    ]


def parts_of(record: TokenRecord, i: int) -> tuple[Part, ...]:
    """The reward of a response, taken apart: each term times its weight, what clip and floor took, the KL's cost."""
    parts = [_term(name, weight, float(record.terms[name][i])) for name, weight in record.weights.items()]
    score, rewarded = float(record.score[i]), float(record.rewarded[i])
    if record.combine != "sum":
        joined = score - sum(part.amount for part in parts)
        parts.append(Part(f"combined by {record.combine}", joined, f"to a score of {score:.4g}"))
    if rewarded != score:
        parts.append(Part("clip and floor", rewarded - score, f"score {score:.4g} counts as {rewarded:.4g}"))
    if record.kl is not None:
        nats = float(record.divergence[i])
        how = f"-{record.price:.4g} × {nats:.4g} nats"
        if record.price != record.beta:
            how = f"the loss pays for it: {record.beta:.4g} × KL, {nats:.4g} nats in this response"
        parts.append(Part("KL to the reference", -record.price * nats, how))
    return tuple(parts)


def _term(name: str, weight: float, score: float) -> Part:
    if isnan(score):
        return Part(name, 0.0, "does not apply")
    return Part(name, weight * score, f"{weight:.4g} × {score:.4g}")
