"""Layers of a reward model that are not trained: what they say of a text is computed once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.config import RewardConfig
from proximo.language.data.batching import right_padded, token_budget_batches
from proximo.language.models.decoder import check_freeze, split_decoder
from proximo.language.rewards.reward_model import RewardModel


class FrozenTrunk:
    """The lowest layers of a reward model, which stay as they are: their states of each text are kept.

    Args:
        reward: its other layers are trained in place.
        layers: how many are frozen.
        texts: tokens of all texts.
        config: kept_states bounds the memory.

    Raises:
        UserError: there is no layer left to train, or the decoder can not be cut.

    Attributes:
        kept: the states of all texts, once `remember` has computed them.
    """

    def __init__(self, reward: RewardModel, layers: int, texts: Sequence[Sequence[int]], config: RewardConfig) -> None:
        self.reward, self.texts, self.config = reward, texts, config
        decoder: Any = reward.decoder
        check_freeze(decoder, layers)
        try:
            self.trunk, self.top = split_decoder(decoder, len(decoder.layers) - layers)
        except UserError as error:  # speaks of what PPO shares
            raise UserError(
                f"freeze = {layers} needs a decoder that can be cut, which {type(decoder).__name__} is not: use 0"
            ) from error
        # The top is a copy: it takes its place in the model, so that what is trained is what is saved.
        for i, layer in enumerate(self.top.layers):  # type: ignore[arg-type]
            decoder.layers[layers + i] = layer
        decoder.norm = self.top.norm
        self.trunk.requires_grad_(False)
        self.top.requires_grad_(True)
        self.kept: list[Tensor] | None = None
        self._bytes = sum(map(len, texts)) * reward.head.in_features * 4

    def remember(self, say: Callable[[str], None]) -> None:
        """Compute the states of all texts, unless they would take too much memory; `say` is told, for it takes long."""
        if self.kept is None and self._bytes <= self.config.kept_states * 1e9:
            say(f"computing the frozen layers' states of {len(self.texts)} texts ({self._bytes / 1e6:,.0f} MB)")
            self.kept = self._all_states()

    def scores(self, indices: Sequence[int]) -> Tensor:
        """Scores of texts, `[n]`, with gradient to the upper layers."""
        lengths = torch.tensor([len(self.texts[i]) for i in indices])
        states = self._states(indices)
        with computing(self.reward.device, self.config.compute):
            hidden = self.top(inputs_embeds=states, use_cache=False).last_hidden_state
        return self.reward.head_scores(hidden[torch.arange(len(indices)), lengths - 1])

    def _states(self, indices: Sequence[int]) -> Tensor:
        if self.kept is None:
            return self._forward(indices)
        return nn.utils.rnn.pad_sequence([self.kept[i] for i in indices], batch_first=True)

    @torch.no_grad()
    def _forward(self, indices: Sequence[int]) -> Tensor:
        tokens, _ = right_padded([self.texts[i] for i in indices])
        with computing(self.reward.device, self.config.compute):
            return self.trunk(input_ids=tokens.to(self.reward.device), use_cache=False).last_hidden_state.float()

    def _all_states(self) -> list[Tensor]:
        kept: list[Tensor] = [torch.empty(0)] * len(self.texts)
        for group in token_budget_batches([len(t) for t in self.texts], self.config.token_budget):
            for i, states in zip(group, self._forward(group), strict=True):
                kept[i] = states[: len(self.texts[i])].clone()
        return kept
