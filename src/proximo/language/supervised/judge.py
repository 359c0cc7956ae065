"""Trains a judge: an encoder that compares what a model says before and after."""

from contextlib import ExitStack
from typing import Any

import torch

from proximo.language.compute.threads import using_threads
from proximo.language.config import RewardConfig
from proximo.language.data.dataset import Loaded, Pair, as_pair, different_sides, read_pair_rows
from proximo.language.models.encoder import check_encoder
from proximo.language.models.folders import check_savable
from proximo.language.models.loading import choose_device, load_encoder, load_text_tokenizer
from proximo.language.rewards.judge import Judge, whole_text
from proximo.language.rewards.preferences import evaluate
from proximo.language.rewards.reward_model import initialise_head
from proximo.language.rewards.standardise import standard_texts, standardise
from proximo.language.supervised.reward import COLUMNS, RewardTraining, record_final, run_training
from proximo.language.supervised.training import begin_stage, finish_stage, open_stage
from proximo.runs.console.progress import Mode
from proximo.runs.session.opening import Call


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
    call = call or Call()
    opening, remark = open_stage(config, call)
    if done := opening.results:
        return done
    config = opening.config
    with using_threads(config.threads), ExitStack() as stack:
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
        loaded = judge_pairs(config.data, judge)
        held_out = judge_pairs(config.validation, judge) if config.validation else Loaded([])
        standard = standard_texts(config, config.policy)
        scorer = _RowScorer(judge)
        training = RewardTraining(config, scorer, loaded.items)
        check_savable(encoder, tokenizer)
        session = begin_stage(
            stack,
            opening,
            training,
            "judge",
            columns=COLUMNS,
            console=console,
            call=call,
            messages=(remark, loaded.message, held_out.message, standard.message),
        )
        if stopped := run_training(training, session, held_out.items):
            return stopped
        result = training.summary | standardise(judge, standard, lambda row: whole_text(row["prompt"], row["response"]))
        if held_out.items:
            result |= evaluate(scorer, held_out.items, scale=judge.about["std"])
            result |= {f"human/{name}": x for name, x in (human_ceiling or {}).items()}
            record_final(session, result)
        judge.about |= {"report": result}
        judge.save(config.output)
        return finish_stage(session.folder, result)


def judge_pairs(source: Any, judge: Judge) -> Loaded[Pair]:
    """Preference pairs in the judge's tokens, which read prompt and response as one text.

    No pair is left out: the answers that will be judged are not either, and of a long text the judge reads the end.

    Raises:
        UserError: rows with missing or empty fields, or numbers out of range.
    """
    rows, equal = different_sides(read_pair_rows(source))
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
    return Loaded(pairs, message="; ".join(filter(None, (equal, message if full else ""))))
