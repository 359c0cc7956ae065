"""Whether the judges can tell responses apart, on the scale that the KL's price is set for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from proximo.language.data import load_pairs
from proximo.language.preflight.check import Check
from proximo.language.rewards import ModelReward, RewardTerm

if TYPE_CHECKING:
    from proximo.language.preflight.flight import Flight

PAIRS = 64
GOOD, CHANCE = 0.6, 0.5
"""Accuracy on 64 pairs has a standard error of 0.06: below 0.6 it may be luck, at 0.5 it knows nothing."""
CLIPPED = 0.2  # share of scores at the clip beyond which better and best are one
FAR, NARROW, WIDE = 3.0, 0.1, 10.0
"""Standardised scores of responses like those of fine-tuning have mean 0 and deviation 1."""


def reward_checks(flight: Flight) -> list[Check]:
    """All checks of all judges."""
    checks = []
    for term in flight.training.rewards:
        checks.append(_spread(term, flight))
        if isinstance(term, ModelReward):
            checks += [_reads_the_end(term, flight), _same_template(term, flight), _accuracy(term, flight)]
    return checks


def _spread(term: RewardTerm, flight: Flight) -> Check:
    scores = term(flight.judged)
    mean, std = float(scores.mean()), float(scores.std(unbiased=False))
    limit = flight.training.config.score_clip
    clipped = 0.0 if limit is None else float((term.weight * scores).abs().ge(limit).float().mean())
    name, seen = f"{term.name} tells responses apart", f"mean {mean:+.2f}, deviation {std:.2f}, {clipped:.0%} clipped"
    if std < 1e-6 and isinstance(term, ModelReward):
        return Check(name, "fail", seen, "it gives every response one score: train it longer")
    if std < 1e-6:  # a rare success is a fair reward
        return Check(name, "warn", seen, "nothing can be learnt until some response scores otherwise")
    if clipped > CLIPPED:
        return Check(name, "warn", seen, "lower its weight, or raise score_clip")
    # A function's scale is its author's business.
    if isinstance(term, ModelReward) and (abs(mean) > FAR or not NARROW <= std <= WIDE):
        return Check(name, "warn", seen, "standardise it on the policy's own samples (reward stage, standardise_on)")
    return Check(name, "pass", seen)


def _reads_the_end(term: ModelReward, flight: Flight) -> Check:
    """The score is read at the last token, which should be the EOS that it was trained with."""
    judged, model = flight.judged, term.model
    prompts = judged.sources or judged.prompts
    with_end, without = (model.score_texts(prompts, judged.responses, [e] * len(prompts)) for e in (True, False))
    shift, std = float((with_end - without).mean()), float(with_end.std(unbiased=False))
    name, seen = f"{term.name} was trained with EOS", f"EOS moves the score by {shift:+.2f} (deviation {std:.2f})"
    if "EOS" in str(model.about.get("template", "")):
        return Check(name, "pass", seen)
    remedy = "its folder does not say; if it was trained without EOS, train one that is (proximo rlhf reward)"
    return Check(name, "warn", seen, remedy)


def _same_template(term: ModelReward, flight: Flight) -> Check:
    """Chat messages are written out alike for policy and judge, where their tokenizers are the same."""
    name, judge, mine = f"{term.name} reads the same template", term.model.tokenizer, flight.training.tokenizer
    chats = [p.source for p in flight.prompts if isinstance(p.source, list)]
    if not chats:
        return Check(name, "pass", "prompts are text: no template is used")
    if not judge.chat_template:
        return Check(name, "fail", "prompts are chat messages and it has no template", "set tokenizer.chat_template")
    texts = [t.apply_chat_template(chats[0], tokenize=False, add_generation_prompt=True) for t in (mine, judge)]
    if texts[0] == texts[1]:
        return Check(name, "pass", "chat messages are written out alike")
    related = mine.get_vocab().items() <= judge.get_vocab().items()
    remedy = "give both the template that it was trained with" if related else ""
    seen = "written out in its own way" + ("" if related else ", as its tokenizer is another")
    return Check(name, "warn" if related else "pass", seen, remedy)


def _accuracy(term: ModelReward, flight: Flight) -> Check:
    file, model = flight.training.config.held_out_pairs, term.model
    name = f"{term.name} agrees with people"
    if not file:
        return Check(name, "skip", "no held-out pairs", "give held_out_pairs to have it measured")
    limit = getattr(model.model.config, "max_position_embeddings", None) or 10**9
    pairs = load_pairs(file, model.tokenizer, limit, rows_limit=PAIRS).items
    chosen, rejected = (model.score([getattr(p, side) for p in pairs]) for side in ("chosen", "rejected"))
    preferred = torch.tensor([p.label for p in pairs]) >= 0.5
    share = float(((chosen > rejected) == preferred).float().mean())
    seen = f"{share:.0%} of {len(pairs)} held-out pairs"
    if share >= GOOD:
        return Check(name, "pass", seen)
    remedy = "PPO would please nobody: check that chosen and rejected are not swapped, and train it longer"
    return Check(name, "fail" if share <= CHANCE else "warn", seen, remedy)
