"""The checks in their order, on a few responses of the policy as it is."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proximo.core.batch import Batch
from proximo.language.data.prompts import Prompt
from proximo.language.ppo.preflight import memory, policy_checks, reward_checks
from proximo.language.ppo.preflight.check import Check
from proximo.language.ppo.training import PPOTraining
from proximo.language.sampling.sampler import Samples
from proximo.language.sampling.texts import Texts, to_batch, to_texts

PROMPTS, FEWEST = 16, 8
LONGEST = 64
"""Tokens of a response here: with 16 prompts, seconds for a model of 135M parameters on a CPU."""


@dataclass(frozen=True)
class Flight:
    """A training before its first step, and a few responses that leave no trace in it."""

    training: PPOTraining
    prompts: list[Prompt]
    samples: Samples
    batch: Batch
    texts: Texts
    log_prob: Tensor
    """`[B, R]`, of the samples under the policy as it is trained."""

    @property
    def cap(self) -> int:
        """Longest response here, tokens."""
        return min(self.training.config.response_limit, LONGEST)

    @property
    def shortened(self) -> bool:
        """Whether responses are cut earlier here than in the run: then nothing follows from those that are."""
        return self.cap < self.training.config.response_limit


def preflight(training: PPOTraining) -> list[Check]:
    """Check a training; its weights, generators and prompts stay where they are.

    All ranks of one whose weights are spread over them have to ask, and fly alike.

    Raises:
        UserError: a reward term or a file fails in a way that says itself what to mend.
    """
    flight = _fly(training)
    return [
        policy_checks.sampler_agrees(flight),
        policy_checks.starts_at_the_reference(flight),
        policy_checks.responses_end(flight),
        policy_checks.tokens_survive_text(flight),
        policy_checks.lengths_fit(flight),
        *reward_checks.reward_checks(flight),
        memory.fits(training),
    ]


def _fly(training: PPOTraining) -> Flight:
    every = math.ceil(len(training.prompts.prompts) / PROMPTS)
    some = training.prompts.prompts[::every]
    prompts = [some[i % len(some)] for i in range(max(len(some), FEWEST))]  # a handful is asked again
    noise = torch.Generator().manual_seed(training.config.seed)
    with training.policy.computing():
        samples = training.sample([p.tokens for p in prompts], noise, LONGEST)
    batch = to_batch(prompts, samples)
    log_prob, _ = training.policy.scored(batch)
    return Flight(training, prompts, samples, batch, to_texts(prompts, samples, training.tokenizer), log_prob)
