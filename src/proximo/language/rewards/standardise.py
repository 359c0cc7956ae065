"""What a reward model's scores are standardised on: samples of the model that PPO will start from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.data.rows import read_fields
from proximo.language.models.loading import load_tokenizer
from proximo.language.sampling.samples import sample_rows


@dataclass(frozen=True)
class StandardTexts:
    """Rows with `prompt`, `response` and `finished`, and what they are, in words."""

    rows: list[dict[str, Any]]
    about: str
    message: str = ""
    """What was left out, in a sentence."""
    tokenizer: Any = None
    """Of the model that sampled them, as `tokens` in the rows; None where people wrote them."""


def standard_texts(config: RewardConfig, policy: str) -> StandardTexts:
    """Responses on which the scores shall have mean 0 and variance 1.

    Args:
        config: of the reward model or judge.
        policy: who responds; "" takes the responses that the rows hold.

    Returns:
        `config.standardise_rows` samples of the policy; without one the responses in standardise_on, or else those that
        people preferred in the training data.

    Raises:
        UserError: the rows or the model can not be used.
    """
    count = config.standardise_rows
    if policy:
        samples = sample_rows(
            policy,
            config.standardise_on or config.validation or config.data,
            count,
            prompt_limit=config.prompt_limit,
            response_limit=config.response_limit,
            temperature=config.temperature,
            seed=config.seed,
            device=config.device,
            trust_remote_code=config.trust_remote_code,
            day=config.date,
        )
        tokenizer = load_tokenizer(policy, trust_remote_code=config.trust_remote_code, day=config.date)
        return StandardTexts(samples.items, f"{len(samples.items)} samples of {policy}", samples.message, tokenizer)
    source, name = (config.standardise_on, "response") if config.standardise_on else (config.data, "chosen")
    read = read_fields(source, ("prompt", name), count)
    rows = [{"prompt": row["prompt"], "response": row[name], "finished": True} for row in read.values]
    return StandardTexts(rows, f"{len(rows)} responses of {source}")


def standardise(scorer: Any, texts: StandardTexts, read: Callable[[Mapping[str, Any]], Any]) -> dict[str, Any]:
    """Give the scores of these texts mean 0 and variance 1; what the scale was, and what they were.

    Args:
        scorer: a reward model or a judge.
        texts: see `standard_texts`.
        read: a row as `scorer.standardise` takes it; one that it refuses is left out, and that is said.

    Raises:
        UserError: fewer than two texts are left, or their scores do not differ.
    """
    rows, left_out = [], ""
    for row in texts.rows:
        try:
            rows.append(read(row))
        except UserError as error:  # longer than the scorer's context
            left_out = str(error)
    if len(rows) < 2:
        raise UserError(f"there are fewer than two texts to standardise the scores on: {left_out}")
    about = texts.about if not left_out else f"{len(rows)} of {texts.about}; the others are too long"
    said = scorer.standardise(rows) | {"standardised_on": about}
    scorer.about |= said
    return said
