"""The reward terms that a PPO run's configuration names, loaded; and what of them its critic may start from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proximo.language.models import choose_device
from proximo.language.ppo_configuration import PPOConfig
from proximo.language.reward_model import RewardModel
from proximo.language.rewards import FunctionReward, ModelReward, RewardTerm, function_from


def make_rewards(config: PPOConfig) -> list[RewardTerm]:
    """The reward terms that `config` names.

    Raises:
        UserError: one can not be loaded.
    """
    return [_reward(name, weight, config) for name, weight in config.rewards.items()]


def _reward(name: str, weight: float, config: PPOConfig) -> RewardTerm:
    if ":" in name and not Path(name).exists():
        return FunctionReward(function_from(name), weight, name.partition(":")[2])
    model = RewardModel.load(
        name,
        device=choose_device(config.device),
        token_budget=config.token_budget,
        compute=config.compute,
        trust_remote_code=config.trust_remote_code,
    )
    return ModelReward(model, weight, name if len(config.rewards) > 1 else Path(name).name)


def reward_decoder(config: PPOConfig, tokenizer: Any, terms: Sequence[RewardTerm]) -> Any:
    """What a separate critic starts from where that is to be a reward model; None if it is not, or none fits.

    Args:
        config: what to do.
        tokenizer: the policy's.
        terms: all of the run.
    """
    if config.sharing.critic_from != "reward":
        return None
    models = [t.model for t in terms if isinstance(t, ModelReward)]
    # A reward model may have one more token, to pad with.
    mine = tokenizer.get_vocab().items()
    same = [m for m in models if mine <= m.tokenizer.get_vocab().items()]
    return same[0].model.get_decoder() if same else None
