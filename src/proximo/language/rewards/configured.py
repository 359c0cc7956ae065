"""The reward terms that a PPO run's configuration names, loaded; and what of them its critic may start from."""

import copy
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proximo.language.given.rewards import Own
from proximo.language.models.loading import choose_device
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.loading import load_reward_term
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.rewards.terms import FunctionReward, ModelReward, RewardTerm, function_from
from proximo.language.stages import is_function
from proximo.runs.storage.code_identity import identity


def make_rewards(config: PPOConfig, device: torch.device | None = None, own: Own | None = None) -> list[RewardTerm]:
    """The reward terms that `config` names.

    Args:
        config: names and weights.
        device: where reward models compute; as `config` says if None.
        own: what some of the names stand for in this process.

    Raises:
        UserError: one can not be loaded.
    """
    shown = short_names(list(config.rewards))
    device = choose_device(config.device) if device is None else device
    return [_reward(name, weight, shown[name], config, device, own or {}) for name, weight in config.rewards.items()]


def code_of_rewards(
    config: PPOConfig, rewards: Sequence[RewardTerm] | None = None, own: Own | None = None
) -> dict[str, str]:
    """What tells the code of a run's reward functions from any other's, see `identity`.

    Args:
        config: of the run.
        rewards: terms made in Python; those that `config` names if None.
        own: what some of the names stand for in this process.
    """
    if rewards is not None:
        return identity({f"reward {x.name}": (_what_scores(x), x.weight) for x in rewards})
    names = [*config.rewards, *filter(None, [config.judge])]
    functions = {name: function_from(name, config.modules) for name in names if _is_named(name, own)}
    return identity({f"reward {name}": function for name, function in {**(own or {}), **functions}.items()})


def _is_named(reward: str, own: Own | None) -> bool:
    """Whether a name is that of a function which its module holds, and not one that was given."""
    return reward not in (own or {}) and is_function(reward)


def _what_scores(term: RewardTerm) -> Any:
    """The function of a term, the number that its model's weights come to, or the term itself."""
    if not isinstance(term, ModelReward) or not isinstance(model := getattr(term.model, "model", None), nn.Module):
        return getattr(term, "function", term)
    digest = hashlib.sha256()
    for name, x in model.state_dict().items():
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(
            x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes() if x.dim() else repr(x).encode()
        )
    return int(digest.hexdigest()[:15], 16)


def short_names(names: Sequence[str]) -> dict[str, str]:
    """What each reward is called in metrics: its last part, or as many of its parts as tell it from the others.

    Args:
        names: folders, hub names and `module:function`, no two the same.
    """
    candidates = {name: _candidates(name) for name in names}
    taken = {name: {x for other in names if other != name for x in candidates[other]} for name in names}
    return {name: next((x for x in candidates[name] if x not in taken[name]), name) for name in names}


def _candidates(name: str) -> list[str]:
    """`function`, what it lies within and `module:function`; or the last part of a path, the last two, and so on."""
    if is_function(name):
        within = name.partition(":")[2]
        return list(dict.fromkeys([within.rpartition("<locals>.")[2], within, name]))
    parts = [part for part in Path(name).parts if part != Path(name).anchor]
    return ["/".join(parts[start:]) for start in range(len(parts) - 1, -1, -1)]


def _reward(name: str, weight: float, shown: str, config: PPOConfig, device: torch.device, own: Own) -> RewardTerm:
    if name in own:
        return FunctionReward(own[name], weight, shown)
    if is_function(name):
        return FunctionReward(function_from(name, config.modules), weight, shown)
    return load_reward_term(
        name,
        weight,
        shown,
        device=device,
        token_budget=config.token_budget,
        compute=config.compute,
        trust_remote_code=config.trust_remote_code,
        day=config.date,
    )


def reward_start(
    config: PPOConfig, tokenizer: Any, terms: Sequence[RewardTerm]
) -> tuple[nn.Module | None, nn.Linear | None]:
    """Decoder and head that a separate critic starts from where `critic_from = "reward"`.

    The head is weighted as the reward is, so that values begin as what the reward model would add to the return.

    Args:
        config: what to do.
        tokenizer: the policy's.
        terms: all of the run.

    Returns:
        None for both if it is not to be one, or none fits.
    """
    if config.sharing.critic_from != "reward":
        return None, None
    models = [t for t in terms if isinstance(t, ModelReward) and isinstance(t.model, RewardModel)]
    # A reward model may have one more token, to pad with.
    mine = tokenizer.get_vocab().items()
    same = [term for term in models if mine <= term.model.tokenizer.get_vocab().items()]
    if not same:
        return None, None
    model, weight = same[0].model, same[0].weight
    head = copy.deepcopy(model.head)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(weight)
    return model.decoder, head
