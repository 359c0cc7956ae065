"""Prompts answered by the model before PPO and after it, with the reward of each answer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from proximo.language.data import load_prompts
from proximo.language.evaluation import answer, load_policy_model
from proximo.language.models import load_tokenizer
from proximo.language.ppo import stop_tokens
from proximo.language.ppo_configuration import PPOConfig
from proximo.language.rewards import combine
from proximo.language.sampler import SamplingParameters
from proximo.language.train import make_rewards
from proximo.runs.configuration import from_mapping, read_toml
from proximo.runs.errors import UserError


def side_by_side(run: Path, prompts: Sequence[str] = (), count: int = 5, seed: int = 1) -> dict[str, Any]:
    """Answers before and after.

    Args:
        run: folder of all stages, or that of the PPO stage.
        prompts: what to answer; the first of the run's own prompts if empty.
        count: how many of these.
        seed: of the sampling; both models get the same random numbers.

    Returns:
        `answers`, one mapping per prompt, and the mean rewards `before_score` and `after_score`.

    Raises:
        UserError: there is no finished PPO run.
    """
    folder = run / "ppo" if (run / "ppo" / "config.toml").exists() else run
    if not (folder / "policy").is_dir():
        raise UserError(f"{run} holds no finished PPO run (no policy folder in {folder}): run `proximo rlhf ppo` first")
    config = from_mapping(PPOConfig, read_toml(folder / "config.toml"), where=str(folder / "config.toml"))
    tokenizer = load_tokenizer(config.policy, trust_remote_code=config.trust_remote_code)
    source = [{"prompt": p} for p in prompts] or config.prompts
    rows = load_prompts(source, tokenizer, config.prompt_limit).items[: len(prompts) or count]
    terms = make_rewards(config)
    columns = []
    for name in (config.policy, str(folder / "policy")):
        model = load_policy_model(name, trust_remote_code=config.trust_remote_code)
        parameters = SamplingParameters(config.response_limit, stop_tokens(model, tokenizer), config.temperature)
        judged = answer(model, tokenizer, rows, parameters, seed=seed).judged
        columns.append((judged.responses, combine(terms, judged)[0]))
    (before, before_scores), (after, after_scores) = columns
    answers = [
        {
            "prompt": row.text,
            "before": before[i],
            "before_score": float(before_scores[i]),
            "after": after[i],
            "after_score": float(after_scores[i]),
        }
        for i, row in enumerate(rows)
    ]
    means = [float(torch.mean(scores)) for scores in (before_scores, after_scores)]
    return {"answers": answers, "before_score": means[0], "after_score": means[1]}
