"""Another sampler in the place of ours: what it says of its tokens is checked before it is believed."""

from dataclasses import replace

import pytest
import torch
from language_runs import PROMPTS, letters
from tiny import llama, prompts, tokenizer

from proximo.core.settings import UpdateSettings
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import FunctionReward
from proximo.language.sampling.engine import InPlace
from proximo.language.sampling.sampler import generate


def training(sampler, **changes):
    update = UpdateSettings(epochs=2, minibatch_size=4, value_coefficient=0.1, max_grad_norm=1.0)
    config = PPOConfig(batch=8, responses=400, response_limit=6, learning_rate=1e-2, update=update, **changes)
    return PPOTraining(config, llama(), tokenizer(), prompts(*PROMPTS), [FunctionReward(letters)], sampler=sampler)


@pytest.mark.parametrize(("off", "believed"), [(0.0, 1.0), (0.1, 0.0)])
def test_a_sampler_whose_log_probs_are_not_the_trainers_is_scored_again(off, believed):
    def other(*arguments, **settings):
        samples = generate(*arguments, **settings)
        real = torch.arange(samples.tokens.shape[1]) < samples.lengths.unsqueeze(1)
        return replace(samples, log_probs=torch.where(real, samples.log_probs - off, 0.0))

    theirs, ours = training(InPlace(other)), training(None, old_log_probs="auto" if believed else "rescore")
    for _ in range(3):
        row, same = theirs.iterate(), ours.iterate()
        assert row["sampler_log_probs"] == believed
        assert row["score"] == same["score"]
    assert theirs.gap is None if believed else abs(theirs.gap - off) < 1e-3
    assert all(torch.equal(a, b) for a, b in zip(theirs.roles.trainable(), ours.roles.trainable(), strict=True))
