"""What a PPO run on a language model starts from: its price of divergence, its stop tokens, and whether all fits."""

from collections.abc import Sequence
from typing import Any

from proximo.core.divergences import AdaptiveKLController, FixedKLController
from proximo.core.schedules import Schedule
from proximo.core.update import check_minibatch_size
from proximo.language.ppo_configuration import PPOConfig
from proximo.language.rewards import RewardTerm
from proximo.language.rollout import Prompt
from proximo.runs.errors import UserError


def kl_controller(config: PPOConfig) -> FixedKLController | AdaptiveKLController:
    """The price of divergence: fixed, or adapted to a target."""
    kl = config.kl
    if kl.target is None:
        return FixedKLController(kl.coefficient)
    return AdaptiveKLController(kl.coefficient, kl.target, kl.horizon)


def entropy_counts(config: PPOConfig) -> bool:
    """Whether an entropy bonus is ever paid."""
    schedule = Schedule.parse(config.update.entropy_coefficient)
    return schedule.start != 0 or schedule.end != 0


def stop_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's EOS, and what else the model's generation settings end with."""
    others = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    others = others if isinstance(others, list) else [] if others is None else [others]
    return (tokenizer.eos_token_id, *[t for t in others if t != tokenizer.eos_token_id])


def check_fit(
    config: PPOConfig, model: Any, tokenizer: Any, prompts: Sequence[Prompt], rewards: Sequence[RewardTerm]
) -> None:
    """Refuse settings, model and data that do not fit together.

    Raises:
        UserError: says which.
    """
    if not prompts:
        raise UserError("there is no prompt to respond to: check the prompts file and prompt_limit")
    if not rewards:
        raise UserError("nothing judges the responses: give --rewards a reward model's folder or module:function")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token, so no response could end: set tokenizer.eos_token")
    names = [term.name for term in rewards]
    if len(set(names)) < len(names):
        raise UserError(f"two rewards share a name ({', '.join(names)}): give each its own")
    try:
        check_minibatch_size(config.batch, config.update.minibatch_size)
    except ValueError as error:
        raise UserError(str(error).replace("samples of a rollout", "responses of an iteration (batch)")) from error
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max(len(p.tokens) for p in prompts)
    if limit is not None and longest + config.response_limit > limit:
        raise UserError(
            f"a prompt of {longest} tokens with a response of {config.response_limit} does not fit into the model's "
            f"context of {limit}: lower prompt_limit or response_limit"
        )
