"""Whether the rewards can tell responses apart, on the scale that the KL's price is set for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proximo.core.statistics import informative
from proximo.language.data.coder import Coder
from proximo.language.data.dataset import Pair, load_pairs
from proximo.language.ppo.preflight.check import Check
from proximo.language.rewards.chance import BETTER, no_better_than_chance
from proximo.language.rewards.preferences import evaluate
from proximo.language.rewards.terms import ModelReward, RewardTerm, combine

if TYPE_CHECKING:
    from proximo.language.ppo.preflight.flight import Flight

PAIRS, READ = 64, 4096
"""Pairs that are asked about, spread over the first so many of the file."""
GOOD, CHANCE = 0.6, 0.5
"""Accuracy on 64 pairs has a standard error of 0.06, more if they share texts: below 0.6 it may be luck."""
WITHOUT_END = 0.15
"""Accuracy that a model trained with EOS does not gain by leaving EOS out: twice the standard error and more."""
SAME, FEW = 0.07, 8
"""Of 16 responses one that differs is 6 %; of fewer than 8 nothing is said."""
CLIPPED = 0.2  # share of scores at the clip beyond which better and best are one
FAR, NARROW, WIDE = 3.0, 0.1, 10.0
"""Standardised scores of responses like those of fine-tuning have mean 0 and deviation 1."""


def reward_checks(flight: Flight) -> list[Check]:
    """All checks of all rewards."""
    checks = []
    for term in flight.training.rewards:
        checks.append(_spread(term, flight))
        if isinstance(term, ModelReward):
            checks += [_same_template(term, flight), *_against_people(term, flight)]
    return [*checks, _informative(flight)]


def _informative(flight: Flight) -> Check:
    """After clip and floor, on all rewards together: what the run would learn from."""
    scores, _ = combine(flight.training.rewards, flight.texts, flight.training.config.combine)
    rewarded = flight.training._rewarded(scores, flight.samples.finished.cpu())
    share, name = informative(rewarded)[0], "there is something to learn from"
    seen = f"{share:.0%} of {len(rewarded)} rewards differ from the commonest"
    if share > SAME or len(rewarded) < FEW:
        return Check(name, "pass", seen)
    common = float(rewarded.mode().values)
    if flight.shortened and not bool(flight.samples.finished.any()):
        return Check(name, "skip", f"{seen}, but responses are cut at {flight.cap} tokens here")
    floor = flight.training.config.missing_eos_floor
    if floor is not None and common == floor:
        remedy = (
            "responses that do not end get missing_eos_floor instead of their score: raise response_limit, or set "
            "missing_eos_floor to none"
        )
        return Check(name, "warn", f"{seen}, the floor {common:.3g}", remedy)
    return Check(name, "warn", f"{seen}, {common:.3g}", "start with easier prompts, or pay for what comes close (P056)")


def _spread(term: RewardTerm, flight: Flight) -> Check:
    scores = term(flight.texts)
    scores = scores[~scores.isnan()]
    if not len(scores):
        seen = f"it applies to none of {len(flight.prompts)} responses"
        return Check(f"{term.name} tells responses apart", "warn", seen, "check when it gives None")
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


def _same_template(term: ModelReward, flight: Flight) -> Check:
    """Chat messages are written out alike for policy and reward model, where their tokenizers are the same."""
    name, theirs, mine = f"{term.name} reads the same template", term.model.tokenizer, flight.training.tokenizer
    chats = [p.source for p in flight.prompts if isinstance(p.source, list)]
    if not chats:
        return Check(name, "pass", "prompts are text: no template is used")
    if not theirs.chat_template:
        return Check(name, "fail", "prompts are chat messages and it has no template", "set tokenizer.chat_template")
    texts = [Coder(tokenizer).prompt_text(chats[0]) for tokenizer in (mine, theirs)]
    if texts[0] == texts[1]:
        return Check(name, "pass", "chat messages are written out alike")
    related = mine.get_vocab().items() <= theirs.get_vocab().items()
    remedy = "give both the template that it was trained with" if related else ""
    seen = "written out in its own way" + ("" if related else ", as its tokenizer is another")
    return Check(name, "warn" if related else "pass", seen, remedy)


def _against_people(term: ModelReward, flight: Flight) -> list[Check]:
    """Whether it agrees with people on held-out pairs, and whether it was trained with the EOS that it is shown."""
    file = flight.training.config.held_out_pairs
    if weak := no_better_than_chance(term.model.about.get("report", {})):
        remedy = f"PPO would please nobody: {BETTER}"
        return [Check(f"{term.name} agrees with people", "fail", weak, remedy)]
    names = f"{term.name} agrees with people", f"{term.name} was trained with EOS"
    if not file:
        remedy = "set held_out_pairs to pairs that it was not trained on"
        return [Check(name, "warn", "not measured: no held-out pairs", remedy) for name in names]
    pairs = _some_pairs(term, file)
    if not pairs:
        remedy = "set held_out_pairs to pairs of which people preferred one"
        return [Check(name, "warn", "not measured: all held-out pairs are at even odds", remedy) for name in names]
    shown = float(evaluate(term.model, pairs)["accuracy"])
    # A row ends with EOS; a pair of nothing else keeps it.
    cut = [Pair(p.chosen[:-1] or p.chosen, p.rejected[:-1] or p.rejected, p.label) for p in pairs]
    without = float(evaluate(term.model, cut)["accuracy"])
    return [_agreement(names[0], shown, len(pairs)), _reads_the_end(names[1], shown, without)]


def _some_pairs(term: ModelReward, file: str) -> list[Pair]:
    read = load_pairs(file, term.model.tokenizer, term.model.context or 10**9, rows_limit=READ).items
    pairs = [pair for pair in read if pair.label != 0.5]
    return pairs[:: max(1, len(pairs) // PAIRS)][:PAIRS]


def _agreement(name: str, share: float, count: int) -> Check:
    seen = f"{share:.0%} of {count} held-out pairs"
    if share >= GOOD:
        return Check(name, "pass", seen)
    remedy = f"PPO would please nobody: {BETTER}"
    return Check(name, "fail" if share <= CHANCE else "warn", seen, remedy)


def _reads_the_end(name: str, shown: float, without: float) -> Check:
    """The score is read at the last token, which is EOS where a response ended."""
    seen = f"{shown:.0%} of held-out pairs with EOS, {without:.0%} without"
    if without - shown < WITHOUT_END:
        return Check(name, "pass", seen)
    return Check(name, "fail", seen, "it has not learnt to read EOS: train one that has (proximo rlhf reward)")
