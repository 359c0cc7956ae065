"""Prompts answered by the model before PPO and after it, with the reward of each answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proximo.language.comparison import before_and_after, ppo_folder
from proximo.language.ppo.result import CHAT
from proximo.language.rewards.configured import make_rewards
from proximo.language.rewards.terms import combine, cut_prompts
from proximo.runs.session.opening import read_results


def side_by_side(run: Path, prompts: Sequence[str] = (), count: int = 5, seed: int = 1) -> dict[str, Any]:
    """Answers before and after.

    Args:
        run: folder of all stages, or that of the PPO stage.
        prompts: what to answer, as a user's message where the run's prompts are chat messages; the run's held-out
            prompts, or else its own, if empty.
        count: how many of these.
        seed: of the sampling; both models get the same random numbers.

    Returns:
        `answers`, one mapping per prompt, the mean rewards `before_score` and `after_score`, and `notes`, sentences on
        the choice of the prompts.

    Raises:
        UserError: there is no finished PPO run.
    """
    chat = bool(prompts) and (read_results(ppo_folder(run)[0] / "results.json") or {}).get("prompts") == CHAT
    asked = _as_messages if chat else str
    rows = [{"prompt": asked(p)} for p in prompts]
    seen = before_and_after(run, rows, len(rows) or count, seed)
    terms = make_rewards(seen.config, seen.device)
    scores = [combine(terms, answers.texts, seen.config.combine)[0] for answers in seen.answers]
    means = [float(given.mean()) for given in scores]
    return {
        "answers": seen.rows(scores),
        "before_score": means[0],
        "after_score": means[1],
        "notes": [*seen.notes, *cut_prompts(terms)],
    }


def _as_messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
