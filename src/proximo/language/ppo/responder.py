"""The policy of a run while it trains: asked for responses that leave the run as it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

from proximo.errors import UserError
from proximo.language.data.dataset import load_prompts
from proximo.language.given.files import as_rows
from proximo.language.ppo.training import PPOTraining
from proximo.language.sampling.texts import to_texts


@dataclass(frozen=True)
class Responder:
    """A policy, with the temperature and the limits of its run."""

    training: PPOTraining

    @overload
    def respond(self, prompts: str, *, seed: int = 0) -> str: ...

    @overload
    def respond(self, prompts: Sequence[Any], *, seed: int = 0) -> list[str]: ...

    def respond(self, prompts: str | Sequence[Any], *, seed: int = 0) -> str | list[str]:
        """One response to each prompt, drawn with random numbers that are not the run's.

        Args:
            prompts: texts, or lists of chat messages `{"role", "content"}`; or one text, for its response alone.
            seed: of the sampling.

        Raises:
            UserError: there is no prompt, one is longer than the run's `prompt_limit`, or the policy is spread over
                ranks.
        """
        if isinstance(prompts, str):
            return self.respond([prompts], seed=seed)[0]
        training = self.training
        if training.spread:
            raise UserError(
                "trainer.policy answers only where each rank has the whole policy, and scale.shard = full spreads it: "
                "ask the run's folder once it has ended"
            )
        rows = as_rows(prompts, "prompts", ("prompt",))
        loaded = load_prompts(rows, training.tokenizer, training.config.prompt_limit)
        if loaded.dropped:
            raise UserError(f"{loaded.message}: shorten them, or raise prompt_limit")
        with training.policy.computing():
            noise = torch.Generator().manual_seed(seed)
            samples = training.sample([prompt.tokens for prompt in loaded.items], noise)
        return to_texts(loaded.items, samples, training.tokenizer).responses
