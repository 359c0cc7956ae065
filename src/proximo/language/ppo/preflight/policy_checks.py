"""Whether the policy that samples is the one that is trained, starts at the reference, and ends its responses."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proximo.core.statistics import high_quantile
from proximo.language.data.continuation import Continuation
from proximo.language.models.context import context_of
from proximo.language.ppo.preflight.check import Check
from proximo.language.ppo.setup import RATIO_QUANTILE, RATIO_TOLERANCE, refers
from proximo.language.ppo.training import PARITY
from proximo.language.roles.lm_head import token_log_probs

if TYPE_CHECKING:
    from proximo.language.ppo.preflight.flight import Flight

FEW_END = 0.5  # share of responses below which most of a batch has no score of its own
NEVER = 1e-4  # probability of EOS that a run of thousands of tokens hardly meets
ROUND_TRIP = 0.5  # a language model writes tokens that its tokenizer would not; a tokenizer that rewrites keeps none


def sampler_agrees(flight: Flight) -> Check:
    """The sampler's log-probs are the trainer's: else the first ratio is not 1."""
    training, real = flight.training, flight.batch.weight > 0
    difference = (flight.log_prob - flight.batch.log_prob)[real]
    gap = float(difference.abs().mean())
    ratio = float(high_quantile((difference.exp() - 1).abs(), RATIO_QUANTILE))
    seen = f"mean gap {gap:.1e} nats per token, ratio of {RATIO_QUANTILE:.0%} of them at most {ratio:.1e} off 1"
    if gap <= PARITY:
        return Check("sampler and trainer agree", "pass", seen)
    rescored = training.config.old_log_probs != "sampler"
    if rescored and ratio <= RATIO_TOLERANCE[training.config.compute]:
        return Check("sampler and trainer agree", "warn", seen, "every response will be scored once more")
    remedy = "set compute to float32" if training.config.compute != "float32" else "set old_log_probs to rescore"
    return Check("sampler and trainer agree", "fail", seen, remedy)


def starts_at_the_reference(flight: Flight) -> Check:
    """KL(policy, reference) is exactly 0 before the first step, in every sharing mode."""
    training, real = flight.training, flight.batch.weight > 0
    name = f"KL to the reference is 0 ({training.config.sharing.mode})"
    if training.progress.iterations:
        return Check(name, "skip", f"the policy has learnt for {training.progress.iterations} iterations")
    if not refers(training.config):
        return Check(name, "skip", "nothing is paid for divergence, so there is no reference")
    off = float((flight.log_prob - training.policy.reference_log_probs(flight.batch))[real].abs().max())
    seen = f"log-probs differ by {off:.1e} nats at most"
    if off == 0:
        return Check(name, "pass", seen)
    remedy = "the reference is another model than the policy: start both from one folder, without a merged adapter"
    return Check(name, "warn" if off < 1e-4 else "fail", seen, remedy if off >= 1e-4 else "")


def responses_end(flight: Flight) -> Check:
    """EOS can be reached: a response that never ends gets the floor, whatever it says."""
    training, samples = flight.training, flight.samples
    real = flight.batch.weight > 0
    share = float(samples.finished.float().mean())
    if samples.hidden is None:  # of an engine, which says no more than this
        return Check("responses end", "pass" if share >= FEW_END else "skip", f"{share:.0%} end")
    hidden, head, temperature = samples.hidden[real], training.roles.head, training.config.temperature
    targets = torch.full((int(real.sum()),), training.parameters.stop[0], device=head.weight.device)

    def of_the_end() -> tuple[Tensor, Tensor]:  # asks for the head's weights only where they are whole
        return token_log_probs(hidden, head.weight, targets, temperature=temperature, bias=head.bias)

    with torch.no_grad():
        log_prob, _ = training.roles.as_policy(of_the_end)
    likeliest = float(log_prob.exp().max())
    seen = (
        f"{share:.0%} of {len(samples.lengths)} responses end within {flight.cap} tokens, EOS at most {likeliest:.1%}"
    )
    if share >= FEW_END:
        return Check("responses end", "pass", seen)
    if flight.shortened and likeliest >= NEVER:
        return Check("responses end", "skip", seen + f", of {training.config.response_limit} in the run")
    floored = training.config.missing_eos_floor is not None
    hopeless = share == 0 and likeliest < NEVER and floored
    remedy = "fine-tune on responses that end (proximo rlhf sft), or raise response_limit"
    return Check("responses end", "fail" if hopeless else "warn", seen, remedy)


def tokens_survive_text(flight: Flight) -> Check:
    """Answers as text give their tokens back: rewards read text, what is trained are the sampled tokens."""
    continuation = Continuation(flight.training.tokenizer)
    lengths = (flight.samples.lengths - flight.samples.finished.long()).tolist()
    answers = [row[:n] for row, n in zip(flight.samples.tokens.tolist(), lengths, strict=True)]
    kept = sum(continuation.encode(continuation.decode(row)) == row for row in answers) / len(answers)
    name, seen = "tokenizer round-trip", f"{kept:.0%} of {len(answers)} answers"
    remedy = "reward models read other tokens than were sampled; if that is all of them, the tokenizer rewrites text"
    return Check(name, "pass", seen) if kept >= ROUND_TRIP else Check(name, "warn", seen, remedy)


def lengths_fit(flight: Flight) -> Check:
    """Prompts and responses against their caps and the model's context."""
    config = flight.training.config
    prompts = [len(p.tokens) for p in flight.training.prompts.prompts]
    context = context_of(flight.training.roles.model)
    cut = float((~flight.samples.finished & (flight.samples.lengths >= flight.cap)).float().mean())
    seen = (
        f"prompts {median(prompts):.0f} tokens, at most {max(prompts)} of {config.prompt_limit}; {cut:.0%} of "
        f"responses reach {flight.cap} of {config.response_limit}; context {context}"
    )
    if cut > FEW_END:
        if flight.shortened:
            return Check("lengths fit", "skip", seen)
        return Check("lengths fit", "warn", seen, "raise response_limit, or most answers are scored unfinished")
    return Check("lengths fit", "pass", seen)
