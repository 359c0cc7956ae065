"""What a PPO run on a language model starts from: its policy, its price of divergence, and whether all fits."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from proximo.core.divergences import AdaptiveKLController, FixedKLController
from proximo.core.schedules import Schedule
from proximo.core.updates.across import room
from proximo.core.updates.optimizer import FlatAdam, Optimizer
from proximo.core.updates.update import minibatches
from proximo.errors import UserError
from proximo.language.data.prompts import Prompt
from proximo.language.models.caches import Kind, usable_cache
from proximo.language.models.context import context_of, why_not_longer
from proximo.language.models.dropout import without_dropout
from proximo.language.models.linear_head import linear_head
from proximo.language.ppo.policy import LanguagePolicy
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import FunctionReward, ModelReward, RewardTerm
from proximo.language.roles.sharing import FullRoles, Roles, make_roles
from proximo.scale.mesh import ALONE, Mesh

RATIO_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.25}
"""How far the first ratio may be off 1. Sampler and trainer add in another order; over thousands of tokens the largest
gap seen with SmolLM2-135M is 1e-4 in float32; bfloat16 has three digits."""

RATIO_QUANTILE = 0.99
"""The share of a minibatch's tokens that must lie within. Of thousands of tokens a few improbable ones are far off by
rounding alone; a temperature, a head or a mask that differs moves most of them, a wrong end one in each response."""

_LONGEST = 64
"""Prompts, the longest as text, whose length in a reward model's own tokens is looked at before the first step."""


def make_policy(
    config: PPOConfig,
    model: Any,
    reward_decoder: nn.Module | None = None,
    reward_head: nn.Linear | None = None,
    mesh: Mesh = ALONE,
    weights: Path | None = None,
) -> LanguagePolicy:
    """The policy with its roles.

    Args:
        config: what to do.
        model: `transformers` causal language model, on its device; it is changed.
        reward_decoder: what a separate critic starts from (`critic_from = reward`).
        reward_head: see `FullRoles`.
        mesh: the ranks, over which the weights are spread where `scale.shard` says so.
        weights: folder of the model's, where they are not loaded (`unloaded_causal_model`).

    Raises:
        UserError: the model can not be shared like this, or can not be sampled.
    """
    model = _in_full(without_dropout(model).eval(), config)
    spread = spreads(config, mesh)
    if not spread:
        cache = _looked_at(model, config, mesh)
    torch.manual_seed(config.seed)
    roles = make_roles(
        model, config.sharing, reward_decoder, reward_head, reference=refers(config), seed=config.seed
    ).eval()
    if spread:
        assert isinstance(roles, FullRoles), "the settings refuse others"
        with mesh.apart():
            roles.spread_over(mesh, offload=config.scale.offload, weights=weights)
            with roles.as_sampler():  # before, it may have had no weights
                cache = _looked_at(model, config, mesh)
    return LanguagePolicy(
        roles,
        ranks=mesh if spread else ALONE,
        cache=cache,
        temperature=config.temperature,
        need_entropy=entropy_counts(config),
        compute=config.compute,
        token_budget=config.token_budget,
    )


def _looked_at(model: Any, config: PPOConfig, mesh: Mesh) -> Kind:
    """The cache to sample a model with.

    Raises:
        UserError: its logits are more than its head says, or it can not be sampled.
    """
    linear_head(model)
    fixed = computing_device(config, model, mesh).type == "cuda"  # on a CPU finished rows leave the batch
    return usable_cache(model, "static" if fixed else "dynamic", config.compute)


def spreads(config: PPOConfig, mesh: Mesh) -> bool:
    """Whether the weights are to lie in parts on the ranks."""
    return config.scale.shard == "full" and not mesh.alone


def computing_device(config: PPOConfig, model: Any, mesh: Mesh) -> torch.device:
    """Where the policy will compute: where the model is, or where its parts go.

    Raises:
        UserError: parts go elsewhere than `device` says, or ranks would share a GPU.
    """
    if not spreads(config, mesh):
        device: torch.device = next(model.parameters()).device
        return device
    if config.device not in ("auto", mesh.device.type):
        raise UserError(
            f"device = {config.device}, but with scale.shard = full each of {mesh.size} ranks computes on "
            f'{mesh.device.type}: leave device at auto (CUDA_VISIBLE_DEVICES="" hides GPUs)'
        )
    mesh.require_own(mesh.device)
    return mesh.device


def _in_full(model: Any, config: PPOConfig) -> Any:
    """A model in half precision with weights of float32 where they are trained: a step is far below their rounding.

    Adapters are of float32 anyhow, and their base may stay as it is.
    """
    half = any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters())
    return model.float() if half and config.sharing.mode != "lora" else model


def make_optimizer(config: PPOConfig, roles: Roles, mesh: Mesh) -> Optimizer:
    """Adam on what the roles train, or on this rank's part of it."""
    parameters, without_warmup = roles.trainable(), Schedule.parse(config.learning_rate).start
    # What the KL steers is multiplied: it begins without a warm-up, which no update would end.
    rate = learning_rate(config, 0.0) if config.update.adaptive_kl is None else without_warmup
    if roles.spread is None:
        return FlatAdam(parameters, rate, config.adam_epsilon, configured_rate=without_warmup, room=room(mesh))
    from proximo.scale.sharded import ShardedAdam

    return ShardedAdam(parameters, rate, config.adam_epsilon, mesh, configured_rate=without_warmup)


def refers(config: PPOConfig) -> bool:
    """Whether the policy is compared with a reference: a KL that costs nothing, ends nothing and is no judge's scale is
    not computed.
    """
    return config.kl.coefficient > 0 or config.kl.budget is not None or config.judge != ""


def learning_rate(config: PPOConfig, progress: float) -> float:
    """The step size at `progress` in [0, 1]."""
    # The first iteration must move too, by a schedule with a warm-up as well: half an iteration's share, not 0.
    share = progress + 0.5 * config.batch / config.responses
    schedule = Schedule.parse(config.learning_rate)
    rate = schedule.at(progress) or schedule.at(share)
    return rate * min(1.0, share / config.warmup) if config.warmup > 0 else rate


def kl_controller(config: PPOConfig) -> FixedKLController | AdaptiveKLController:
    """The price of divergence: fixed, or adapted to a target."""
    kl = config.kl
    if kl.target is None:
        return FixedKLController(kl.coefficient)
    return AdaptiveKLController(kl.coefficient, kl.target, kl.horizon)


def entropy_counts(config: PPOConfig) -> bool:
    """Whether an entropy bonus is ever paid."""
    schedule = Schedule.parse(config.update.entropy_coefficient)
    return schedule.extremes != (0, 0)


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
        raise UserError("nothing scores the responses: give --rewards a reward model's folder or module:function")
    if tokenizer.eos_token_id is None:
        raise UserError("the tokenizer has no EOS token, so no response could end: set tokenizer.eos_token")
    names = [term.name for term in rewards]
    if len(set(names)) < len(names):
        raise UserError(f"two rewards share a name ({', '.join(names)}): give each its own")
    try:
        minibatches(config.batch, config.update.minibatch_size)
        if config.batch % config.update.responses_per_prompt:
            raise ValueError(
                f"batch = {config.batch} must be a multiple of update.group = {config.update.responses_per_prompt}"
            )
    except ValueError as error:
        raise UserError(str(error).replace("samples of a rollout", "responses of an iteration (batch)")) from error
    longest = max(len(p.tokens) for p in prompts)
    _check_context("the model", context_of(model), longest, config.response_limit, why_not_longer(model))
    _check_rewards(config, prompts, rewards)


def check_shares(config: PPOConfig, ranks: int) -> None:
    """Refuse more ranks than there are prompts in an iteration, or minibatches of which one would have no response.

    Raises:
        UserError: it is said.
    """
    group = config.update.responses_per_prompt
    least, count = config.batch // group // ranks * group, minibatches(config.batch, config.update.minibatch_size)
    if least < count:
        raise UserError(
            f"{ranks} ranks share the {config.batch // group} prompts of an iteration (batch = {config.batch}), so one "
            f"has {least} responses, and each of {count} minibatches needs one of them: raise batch or "
            "update.minibatch_size, or take fewer ranks"
        )


def _check_rewards(config: PPOConfig, prompts: Sequence[Prompt], rewards: Sequence[RewardTerm]) -> None:
    longest = sorted(prompts, key=lambda p: len(p.text), reverse=True)[:_LONGEST]
    columns = {name for p in prompts for name in p.columns}
    for term in rewards:
        if not math.isfinite(term.weight):
            raise UserError(f"the weight of reward {term.name} is {term.weight}: it must be a finite number")
        if isinstance(term, FunctionReward):
            term.check_columns(columns)
        if isinstance(term, ModelReward) and term.model.context is not None:
            tokens = _longest_in(term, longest)
            # What ends the response is one token more.
            why = why_not_longer(term.model.model)
            _check_context(f"reward {term.name}", term.model.context, tokens, config.response_limit + 1, why)


def _longest_in(term: ModelReward, prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt as a reward model reads it; one without a template is the preflight's to refuse."""
    readable = [p.given for p in prompts if isinstance(p.given, str) or term.model.tokenizer.chat_template]
    return max(map(term.model.prompt_length, readable), default=0)


def _check_context(reader: str, context: int | None, prompt: int, response: int, why: str) -> None:
    if context is not None and prompt + response > context:
        raise UserError(
            f"{reader} reads up to {context} tokens{why}, but a prompt of {prompt} with a response of up to {response} "
            f"has {prompt + response}: lower prompt_limit or response_limit"
        )
