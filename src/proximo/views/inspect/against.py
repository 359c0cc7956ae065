"""Two iterations side by side: which tokens became likelier, and what was said to the same prompts."""

from collections import Counter
from dataclasses import dataclass
from math import sqrt
from typing import Any

from proximo.language.ppo.tokens.record import TokenRecord
from proximo.views.inspect.pieces import Pieces
from proximo.views.inspect.responses import Response, responses, worst

LISTED = 15
"""Tokens that rose, and that fell, most."""


@dataclass(frozen=True)
class Shift:
    """One token: how often it was sampled then and now."""

    text: str
    id: int
    before: int
    now: int
    z: float
    """Of the difference of the two shares; positive where it became likelier."""


@dataclass(frozen=True)
class Against:
    """An iteration beside an earlier one."""

    iteration: int
    """The other one, from which it is told."""
    tokens: tuple[int, int]
    """Sampled in the other one, and in this one."""
    likelier: tuple[Shift, ...]
    rarer: tuple[Shift, ...]
    pairs: tuple[tuple[tuple[Response, ...], tuple[Response, ...]], ...]
    """Of prompts that stand in both: the responses then, and now."""

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "iteration": self.iteration,
            "tokens": {"before": self.tokens[0], "now": self.tokens[1]},
            "likelier": [dict(vars(shift)) for shift in self.likelier],
            "rarer": [dict(vars(shift)) for shift in self.rarer],
            "same_prompts": [
                {"prompt": now[0].prompt, "before": [x.plain() for x in before], "now": [x.plain() for x in now]}
                for before, now in self.pairs
            ],
        }


def z_score(before: int, of_before: int, now: int, of_now: int) -> float:
    """Of two proportions, pooled (Fleiss, Levin & Paik 2003, section 3.1); 0 where nothing varies.

    It takes tokens for independent draws, which those of one response are not: a guide, no test.
    """
    pooled = (before + now) / (of_before + of_now)
    variance = pooled * (1 - pooled) * (1 / of_before + 1 / of_now)
    return (now / of_now - before / of_before) / sqrt(variance) if variance > 0 else 0.0


def against(record: TokenRecord, other: TokenRecord, most: int, pieces: Pieces) -> Against:
    """What changed from one iteration to another.

    Args:
        record: this one.
        other: the one that it is compared with.
        most: prompts whose responses are shown, the ones with the worst responses now first.
        pieces: decodes tokens.
    """
    before, now = Counter(other.tokens.tolist()), Counter(record.tokens.tolist())
    n, m = len(other.tokens), len(record.tokens)
    scores = {token: z_score(before[token], n, now[token], m) for token in before | now} if n and m else {}
    rising = sorted(scores, key=lambda token: (-scores[token], token))
    likelier = [token for token in rising if scores[token] > 0][:LISTED]
    rarer = [token for token in reversed(rising) if scores[token] < 0][:LISTED]

    def shift(token: int) -> Shift:
        return Shift(pieces([token])[0], token, before[token], now[token], scores[token])

    then, here = other.prompts, record.prompts
    both = list(dict.fromkeys(here[i] for i in worst(record) if here[i] in set(then)))[:most]
    pairs = [
        tuple(
            tuple(responses(each, [i for i, prompt in enumerate(prompts) if prompt == asked], pieces))
            for each, prompts in ((other, then), (record, here))
        )
        for asked in both
    ]
    return Against(other.iteration, (n, m), tuple(map(shift, likelier)), tuple(map(shift, rarer)), tuple(pairs))  # type: ignore[arg-type]
