"""Trains a judge: an encoder that compares what a model says before and after."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from proximo.language.config import RewardConfig
from proximo.language.data.dataset import Loaded, Pair, as_pair, different_sides, read_pair_rows
from proximo.language.data.parts import part_of
from proximo.language.models.encoder import check_encoder
from proximo.language.models.folders import check_savable
from proximo.language.models.loading import choose_device, load_encoder, load_text_tokenizer
from proximo.language.rewards.judge import Judge, whole_text
from proximo.language.rewards.reward_model import initialise_head
from proximo.language.rewards.standardise import standard_texts, standardise
from proximo.language.supervised.reward import COLUMNS, RewardTraining
from proximo.language.supervised.training import Stage, run_stage
from proximo.runs.console.progress import Mode
from proximo.runs.session.opening import Call
from proximo.runs.session.session import Session


class _RowScorer:
    """A judge as the trainer sees a scorer."""

    def __init__(self, judge: Judge) -> None:
        self.judge, self.head, self.device, self.tokenizer = judge, judge.head, judge.device, judge.tokenizer
        self.scores, self.score, self.body = judge.scores, judge.score_rows, judge.body


def train_judge(
    config: RewardConfig,
    *,
    console: Mode = "auto",
    human_ceiling: dict[str, float] | None = None,
    call: Call | None = None,
) -> dict[str, Any]:
    """Trains a judge on the pairs of `config.data` and writes its folder.

    Args:
        config: as for a reward model; `model` is an encoder (builtin:minilm), `layers` and `freeze` do not apply.
        console: how progress is shown.
        human_ceiling: what people agree on among themselves, to be reported beside the accuracies.
        call: how this call begins and ends.

    Returns:
        The held-out report (see `preference_report`), mean and std of the raw scores, steps, seconds; of a training
        that was stopped, `stopped` and steps.

    Raises:
        UserError: model, data or output can not be used, or the loss is not finite.
    """
    return run_stage(config, partial(_stage, ceiling=human_ceiling or {}), console=console, call=call)


def _stage(config: RewardConfig, ceiling: Mapping[str, float]) -> Stage:
    encoder = load_encoder(
        config.model, device=choose_device(config.device), trust_remote_code=config.trust_remote_code
    )
    tokenizer = load_text_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    check_encoder(encoder, tokenizer, config.model)
    judge = Judge(
        encoder,
        tokenizer,
        token_limit=config.token_limit,
        token_budget=config.token_budget,
        compute=config.compute,
    )
    initialise_head(judge.head, torch.Generator().manual_seed(config.seed))
    loaded = judge_pairs(config.data, judge, config.part)
    held_out = judge_pairs(config.validation, judge) if config.validation else Loaded([])
    standard = standard_texts(config, config.policy)
    training = RewardTraining(config, _RowScorer(judge), loaded.items, held_out.items)
    check_savable(encoder, tokenizer)

    def finish(session: Session) -> dict[str, Any]:
        scale = standardise(judge, standard, lambda row: whole_text(row["prompt"], row["response"]))
        results = training.report(session, scale, ceiling)
        judge.about |= {"report": results}
        judge.save(config.output)
        return results

    messages = (loaded.message, held_out.message, standard.message)
    return Stage("judge", COLUMNS, training, messages, training.look, finish)


def judge_pairs(source: Any, judge: Judge, part: str = "") -> Loaded[Pair]:
    """Preference pairs in the judge's tokens, which read prompt and response as one text.

    No pair is left out: the answers that will be judged are not either, and of a long text the judge reads the end.

    Raises:
        UserError: rows with missing or empty fields, or numbers out of range.
    """
    rows, share = part_of(read_pair_rows(source), part)
    rows, equal = different_sides(rows)
    both = [[whole_text(row["prompt"], row[side]) for side in ("chosen", "rejected")] for row in rows.values]
    texts = sorted({text for pair in both for text in pair})
    tokens = dict(zip(texts, judge.encode(texts), strict=True))
    pairs = [as_pair(row, tokens[a], tokens[b]) for row, (a, b) in zip(rows.values, both, strict=True)]
    limit = judge.token_limit
    full = sum(len(row) >= limit for row in tokens.values())
    message = (
        f"{full} of {len(texts)} texts of {rows.name} have {limit} tokens or more, of which the judge reads the last "
        f"{limit}: raise token_limit if its encoder reads more"
    )
    return Loaded(pairs, message="; ".join(filter(None, (share, equal, message if full else ""))))
