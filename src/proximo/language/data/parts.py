"""Disjoint shares of preference pairs: models that learn from different ones make different mistakes."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from proximo.errors import UserError
from proximo.language.data.rows import Rows


def part_of(rows: Rows, part: str) -> tuple[Rows, str]:
    """The rows of one part, whatever their order and whoever reads them; and a sentence on it.

    Args:
        rows: with `prompt`, `chosen` and `rejected`.
        part: k/n; all rows if empty. A row is in the one part that the digest of its text falls into, so parts of one n
            share no row, for tokenizers of any kind.

    Raises:
        UserError: the part is empty.
    """
    if not part:
        return rows, ""
    which, count = map(int, part.split("/"))
    kept = [i for i, row in enumerate(rows.values) if _digest(row) % count == which - 1]
    if not kept:
        raise UserError(f"part = {part} of {len(rows.values)} pairs has none: give a larger part")
    return rows.only(kept), f"part {part}: {len(kept):,} of {len(rows.values):,} pairs"


def _digest(row: Mapping[str, Any]) -> int:
    text = json.dumps([row["prompt"], row["chosen"], row["rejected"]], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
