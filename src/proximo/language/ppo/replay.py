"""What an update of a language run learns from, as tensors; and the same update from these, without the rewards."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proximo.algorithms.ppo import algorithm_of
from proximo.core.batch import Batch
from proximo.core.schedules import Schedule
from proximo.core.updates.optimizer import FlatAdam
from proximo.core.updates.update import UpdateTask, minibatches
from proximo.errors import UserError
from proximo.language.models.loading import choose_device, load_causal_model, load_tokenizer
from proximo.language.ppo.rollout import estimate, token_rewards, with_reference
from proximo.language.ppo.setup import RATIO_QUANTILE, RATIO_TOLERANCE, learning_rate, make_policy, refers
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import make_rewards, reward_start
from proximo.language.rewards.informative import reward_scale
from proximo.runs.replay.change import settable
from proximo.runs.replay.entry import Entry, Kept, under
from proximo.runs.replay.learner import Learner
from proximo.runs.replay.report import World

_OWN = ("action", "log_prob", "value", "advantages", "returns", "weight")
_SHOWN_CHARACTERS = 60


def to_tensors(batch: Batch, rewarded: Tensor, ref_log_prob: Tensor | None) -> dict[str, Tensor]:
    """What an update learns from.

    Args:
        batch: of the update.
        rewarded: `[B]`, the scores that are optimised beside the KL.
        ref_log_prob: `[B, R]`, of the reference; None where there is none.
    """
    tensors = {f"inputs/{name}": x for name, x in batch.inputs.items()} | {name: getattr(batch, name) for name in _OWN}
    reference = {} if ref_log_prob is None else {"ref_log_prob": ref_log_prob}
    return tensors | {"rewarded": rewarded, **reference}


def to_batch(tensors: Mapping[str, Tensor]) -> Batch:
    """The batch in what `to_tensors` gave."""
    return Batch(under("inputs/", tensors), **{name: tensors[name] for name in _OWN})  # type: ignore[arg-type]


def _estimated_again(batch: Batch, tensors: Mapping[str, Tensor], coefficient: float, config: PPOConfig) -> Batch:
    """The batch with advantages and returns for other settings."""
    rewarded, lengths, algorithm = tensors["rewarded"], (batch.weight > 0).sum(1), algorithm_of(config.update)
    reference = tensors.get("ref_log_prob")
    rewards = token_rewards(
        rewarded, batch.log_prob, reference, lengths, 0.0 if algorithm.kl_in_the_loss else coefficient
    )
    batch = estimate(batch, rewards, algorithm, config.gamma, config.lam, rewarded, config.response_limit)
    return with_reference(batch, algorithm, reference, coefficient)


def make_learner(entry: Entry, config: PPOConfig, before: PPOConfig) -> Learner:
    """A kept update before it is done.

    Args:
        entry: the update.
        config: the run's, or with a setting changed.
        before: the run's.

    Raises:
        UserError: a model is not where it was, or settings that do not fit.
    """
    trust, device = config.trust_remote_code, choose_device(config.device)
    tokenizer = load_tokenizer(config.policy, trust_remote_code=trust, day=config.date)
    model = load_causal_model(config.policy, device=device, trust_remote_code=trust)
    # Only a critic that began as one has a reward model's shape; its weights are those that were trained.
    terms = make_rewards(config) if config.sharing.critic_from == "reward" else []
    policy = make_policy(config, model, *reward_start(config, tokenizer, terms))
    configured = Schedule.parse(config.learning_rate).start
    optimizer = FlatAdam(policy.roles.trainable(), 0.0, config.adam_epsilon, configured_rate=configured)
    shuffle = torch.Generator()
    entry.before.put_back(optimizer, {"shuffle": shuffle})
    if config.update.adaptive_kl is None:
        optimizer.learning_rate = learning_rate(config, entry.progress)
    # Where β is held to a target it was what it was; else it is the setting.
    coefficient = config.kl.coefficient if config.kl.target is None else entry.facts["kl_coefficient"]
    learnt = {name: x.to(device) for name, x in entry.learnt.items()}
    batch = to_batch(learnt)
    if (config.gamma, config.lam, config.kl, config.update) != (before.gamma, before.lam, before.kl, before.update):
        batch = _estimated_again(batch, learnt, coefficient, config)
    try:
        minibatches(len(batch), config.update.minibatch_size)
    except ValueError as error:
        raise UserError(str(error).replace("samples of a rollout", "responses of an iteration (batch)")) from None

    def where(index: tuple[int, ...]) -> dict[str, Any]:
        row, step = index
        token = int(batch.action[row, step])
        prompt = batch.inputs["tokens"][row, : int(batch.inputs["prompt_lengths"][row])].tolist()
        text = tokenizer.decode([token])
        start = tokenizer.decode(prompt)[:_SHOWN_CHARACTERS]
        return {"response": row, "token": step, "id": token, "text": repr(text), "prompt": repr(start)}

    task = UpdateTask(
        policy,
        batch,
        optimizer,
        progress=entry.progress,
        generator=shuffle,
        split=policy.split,
        quantile=RATIO_QUANTILE,
        tolerance=RATIO_TOLERANCE[config.compute],
        reward_scale=reward_scale(learnt["rewarded"]),
        measure=False,
        numbers=dict(entry.before.numbers),
    )
    at_a_time = config.update.minibatch_size or len(batch)
    return Learner(task, algorithm_of(config.update), policy.roles, at_a_time, where)


def replay_world(kept: Kept) -> World:
    """The world of a language run.

    Raises:
        UserError: its settings can not be read.
    """
    config = kept.config(PPOConfig)
    names = settable(config, without=("micro_batches", "recompute_advantages"))
    fixed = config.kl.target is None and refers(config)  # without a reference nothing is known of another price
    settable_here = names + (["kl.coefficient"] if fixed else [])
    return World(config, settable_here, lambda entry, changed: make_learner(entry, changed, config))
