"""PPO on tiny language models, in every way of sharing weights."""

from tiny import llama, prompts, tokenizer

from proximo.core.settings import UpdateSettings
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig, SharingSettings
from proximo.language.rewards.terms import FunctionReward

MODES = [
    SharingSettings(mode=mode, critic=critic, top_layers=1, lora_rank=4)
    for mode in ("full", "lora", "top_layers")
    for critic in ("shared", "separate")
]


PROMPTS = [[3], [5, 2, 9, 4], [7, 7], [1, 0, 6]]


def letters(prompts, responses, **_):
    return [0.1 * len(r) for r in responses]


def training(sharing, model=None, **changes):
    settings = {
        "batch": 8,
        "responses": 8 * 50,
        "response_limit": 6,
        "learning_rate": 1e-2,
        "sharing": sharing,
        "update": UpdateSettings(epochs=2, minibatch_size=4, value_coefficient=0.1, max_grad_norm=1.0),
    } | changes
    return PPOTraining(
        PPOConfig(**settings), model or llama(), tokenizer(), prompts(*PROMPTS), [FunctionReward(letters)]
    )
