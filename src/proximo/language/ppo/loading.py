"""A PPO training from its settings: the models, reward terms and prompts that they name."""

from collections.abc import Sequence

from proximo.errors import UserError
from proximo.language.data.dataset import load_prompts
from proximo.language.given.rewards import Own
from proximo.language.models.loading import choose_device, load_causal_model, load_tokenizer
from proximo.language.models.unloaded import unloaded_causal_model
from proximo.language.ppo.setup import spreads
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import make_rewards, reward_start
from proximo.language.rewards.terms import RewardTerm
from proximo.scale.mesh import ALONE, Mesh


def make_training(
    config: PPOConfig, rewards: Sequence[RewardTerm] | None = None, own: Own | None = None, mesh: Mesh = ALONE
) -> tuple[PPOTraining, str]:
    """Models, reward terms and prompts as `config` names them, and a sentence about what was left out.

    Args:
        config: what to do.
        rewards: terms made in Python; those that `config` names if None.
        own: what some of these names stand for in this process.
        mesh: the ranks that train together.

    Raises:
        UserError: something can not be read or does not fit.
    """
    if not config.policy:
        raise UserError(
            "PPO needs a model: give --policy FOLDER (in Python the first argument), or make RUN/sft first (proximo "
            "rlhf sft)"
        )
    if not config.prompts:
        raise UserError("PPO needs prompts: give --prompts FILE (in Python prompts=)")
    trust, spread = config.trust_remote_code, spreads(config, mesh)
    # What one rank can not read is said by all before any begins to read its parts, which they do together.
    with mesh.together():
        tokenizer = load_tokenizer(config.policy, trust_remote_code=trust, day=config.date)
        prompts = load_prompts(config.prompts, tokenizer, config.prompt_limit)
        # A model whose weights are to be spread need fit no rank, each reads its own parts; nor a device, if it is
        # whole.
        apart = unloaded_causal_model(config.policy, trust_remote_code=trust) if spread else None
        terms = list(rewards) if rewards is not None else make_rewards(config, own=own)
        decoder, head = reward_start(config, tokenizer, terms)
    if mesh.any(apart is None):
        apart = None
    with mesh.together():
        device = "cpu" if spread else choose_device(config.device)
        model, weights = apart or (load_causal_model(config.policy, device=device, trust_remote_code=trust), None)
    training = PPOTraining(
        config,
        model,
        tokenizer,
        prompts.items,
        terms,
        reward_decoder=decoder,
        reward_head=head,
        mesh=mesh,
        weights=weights,
    )
    return training, prompts.message or f"{len(prompts.items):,} prompts"
