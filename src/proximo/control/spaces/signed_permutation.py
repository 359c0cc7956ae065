"""Permutations with signs, by which a mirror acts on a vector: `-0 2 1`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proximo.control.spaces.actions import ActionSpec
from proximo.errors import UserError

SAME = "same"
"""Instead of a permutation: the mirror leaves everything where it is."""
_ENTRY = re.compile(r"([+-]?)(\d+)")
Turn = Callable[[Tensor], Tensor]
"""Of `[..., D]`, the same shape."""


@dataclass(frozen=True)
class SignedPermutation:
    """Entry i of the image is `sign[i]` times entry `source[i]`; twice it is the identity."""

    source: tuple[int, ...]
    sign: tuple[float, ...]

    @classmethod
    def parse(cls, text: str, size: int, where: str) -> SignedPermutation:
        """Read `-0 2 1`: entry 0 changes its sign, 1 and 2 change places.

        Args:
            text: for each entry the number of the one whose place it takes, with a sign; or `same`.
            size: entries that there are.
            where: the setting, for messages.

        Raises:
            UserError: it is no such list, or applied twice it is not the identity.
        """
        if text.strip() == SAME:
            return cls(tuple(range(size)), (1.0,) * size)
        words = text.replace(",", " ").split()
        if len(words) != size:
            raise UserError(f"{where} has {len(words)} entries for {size} numbers: give one for each, or {SAME}")
        read = [_ENTRY.fullmatch(word) for word in words]
        for i, (word, found) in enumerate(zip(words, read, strict=True)):
            if found is None or int(found[2]) >= size:
                raise UserError(f"{where}: entry {i} is {word!r}: give a number from 0 to {size - 1}, as 2 or -2")
        source = tuple(int(found[2]) for found in read if found)
        sign = tuple(-1.0 if found[1] == "-" else 1.0 for found in read if found)
        for i, j in enumerate(source):
            if source[j] != i or sign[i] != sign[j]:
                raise UserError(
                    f"{where} is no reflection: entry {i} is {words[i]} and entry {j} is {words[j]}, so entry {i} is "
                    f"not itself when it is mirrored twice: give entry {j} as {'-' * (sign[i] < 0)}{i}, or mend entry "
                    f"{i}"
                )
        return cls(source, sign)

    def shifted(self, start: int) -> Iterator[tuple[int, float]]:
        """Source and sign of each entry, where entry 0 lies at `start`."""
        return ((start + j, sign) for j, sign in zip(self.source, self.sign, strict=True))


def turner(source: Sequence[int], sign: Sequence[float], device: torch.device) -> Turn:
    """The permutation of the last axis of tensors on a device."""
    index, signs = torch.tensor(source, dtype=torch.int64, device=device), torch.tensor(sign, device=device)
    if not bool((signs < 0).any()):
        return lambda x: x.index_select(-1, index)
    return lambda x: x.index_select(-1, index) * signs.to(x.dtype)


def outputs_of(action: ActionSpec) -> list[tuple[str, Any]]:
    """What each number of a policy's head is of: its kind, and by what it is told from others of that kind.

    Box columns by their bounds, choices by the place of their first one and how many there are.
    """
    found: list[tuple[str, Any]] = []
    for part in action.parts:
        if part.kind == "box":
            low, high = part.bounds
            found += [("Box column", ends) for ends in zip(low.tolist(), high.tolist(), strict=True)]
        elif part.kind == "binary":
            found += [("switch", None)] * part.width
        else:
            for n in part.choices:
                found += [("choice", (len(found), n))] * n
    return found


def require_actions(turn: SignedPermutation, action: ActionSpec) -> None:
    """See that the image of an action is an action.

    Raises:
        UserError: it is not.
    """
    columns = outputs_of(action)
    for i, (j, sign) in enumerate(zip(turn.source, turn.sign, strict=True)):
        (kind, what), (other, theirs) = columns[i], columns[j]
        where = f"symmetry.actions: entry {i} is {'-' * (sign < 0)}{j}"
        if kind != other:
            raise UserError(f"{where}, and {i} is a {kind} and {j} a {other}: only alike ones can change places")
        if sign < 0 and kind != "Box column":
            raise UserError(f"{where}, and a {kind} has no sign: leave it out")
        if kind == "Box column" and what != (theirs if sign > 0 else (-theirs[1], -theirs[0])):
            raise UserError(
                f"{where}: the bounds {list(theirs)} of {j} would become others than those of {i}, {list(what)}: give "
                "both the same bounds, the same on either side of 0 for a minus"
            )
        if kind == "choice" and (what[1] != theirs[1] or columns[turn.source[what[0]]][1] != theirs):
            raise UserError(f"{where}: the choices of an action stay together, and take the place of as many")
