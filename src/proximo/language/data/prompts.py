"""Prompts, and the order in which a run takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Prompt:
    """One prompt."""

    tokens: list[int]
    text: str
    columns: dict[str, Any]
    """The row's other fields, for reward functions."""
    source: Any = None
    """The prompt as the row has it, chat messages included: a reward model writes them out with its own template."""

    @property
    def given(self) -> Any:
        """What a reward model is to read: the row's own prompt, or the text of a prompt that is of no row."""
        return self.text if self.source is None else self.source


@dataclass
class PromptSource:
    """Prompts in an order that is shuffled anew for each pass; where it stands is part of a checkpoint."""

    prompts: Sequence[Prompt]
    seed: int
    taken: int = 0

    def take(self, count: int) -> list[Prompt]:
        """The next `count` prompts."""
        size, chosen = len(self.prompts), []
        for i in range(self.taken, self.taken + count):
            order = self._order(i // size)
            chosen.append(self.prompts[order[i % size]])
        self.taken += count
        return chosen

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_known", (None, []))[0] != epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._known = (epoch, torch.randperm(len(self.prompts), generator=generator).tolist())
        return self._known[1]
