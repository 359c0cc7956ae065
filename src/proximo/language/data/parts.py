"""Disjoint shares of preference pairs: models that learn from different ones make different mistakes."""

import hashlib
from array import array
from dataclasses import replace

from proximo.errors import UserError
from proximo.language.data.dataset import Loaded, Pair


def part_of(loaded: Loaded[Pair], part: str) -> Loaded[Pair]:
    """The pairs of one part, whatever the order of the file; all of them if `part` is empty.

    Args:
        loaded: pairs, as tokens.
        part: k/n. A pair is in the one part that its digest falls into, so parts of one n share no pair.

    Raises:
        UserError: the part is empty.
    """
    if not part:
        return loaded
    which, count = map(int, part.split("/"))
    items = [pair for pair in loaded.items if _digest(pair) % count == which - 1]
    if not items:
        raise UserError(f"part = {part} of {len(loaded.items)} pairs has none: give a larger part")
    said = f"part {part}: {len(items):,} of {len(loaded.items):,} pairs"
    return replace(loaded, items=items, message="; ".join(filter(None, (loaded.message, said))))


def _digest(pair: Pair) -> int:
    tokens = array("q", [len(pair.chosen), *pair.chosen, *pair.rejected]).tobytes()
    return int.from_bytes(hashlib.sha256(tokens).digest()[:8])
