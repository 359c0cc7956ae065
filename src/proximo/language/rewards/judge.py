"""An independent judge: another architecture (a sentence encoder), trained on ratings that the reward model never saw.

PPO optimises the reward model. Whether the texts got better is asked of the judge, so that learning can be told from
exploiting the reward model's mistakes.
"""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.compute.threads import using_threads
from proximo.language.config import RewardConfig
from proximo.language.data.batching import right_padded, token_budget_batches
from proximo.language.data.coder import Text
from proximo.language.data.dataset import Loaded, Pair, as_pair, different_sides, read_pair_rows
from proximo.language.models.encoder import check_encoder, context_of_encoder
from proximo.language.models.folders import check_savable, read_json, save_folder
from proximo.language.models.loading import choose_device, load_encoder, load_text_tokenizer
from proximo.language.rewards.reward_model import initialise_head
from proximo.language.rewards.scale import mean_and_std
from proximo.language.rewards.standardise import standard_texts, standardise
from proximo.language.supervised.reward import (
    COLUMNS,
    RewardTraining,
    evaluate,
    record_final,
    run_training,
)
from proximo.language.supervised.training import begin_stage, finish_stage, open_stage
from proximo.runs.console.progress import Mode
from proximo.runs.session.opening import Call

ABOUT = "proximo_judge.json"


class Judge:
    """A sentence encoder (mean over tokens) with a linear score.

    Args:
        model: `transformers` encoder without head.
        tokenizer: its tokenizer.
        token_limit: of longer texts the end is read, in which the response is; the encoder's context is a limit too.
        token_budget: tokens, padding included, that go through the network at once.
        compute: type of the matrix products; scores are float32.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, token_limit: int = 128, token_budget: int = 4096, compute: str = "float32"
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        # A tokenizer that names no limit says 1e30.
        self.token_limit = min(token_limit, context_of_encoder(model) or token_limit, int(tokenizer.model_max_length))
        self.token_budget, self.compute = token_budget, compute
        self.device = next(model.parameters()).device
        self.head = nn.Linear(model.config.hidden_size, 1).to(self.device)
        self.about: dict[str, Any] = {}

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu", **settings: Any) -> "Judge":
        """A judge from the folder that `save` wrote.

        Raises:
            UserError: there is none.
        """
        about = read_json(Path(folder) / ABOUT)
        settings = {"token_limit": about.get("token_limit", 128)} | settings
        judge = cls(load_encoder(str(folder), device=device), load_text_tokenizer(str(folder)), **settings)
        try:
            weight = torch.tensor(about["weight"], dtype=torch.float32)
            with torch.no_grad():
                judge.head.weight.copy_(weight.unsqueeze(0))
                judge.head.bias.fill_(about["bias"])
        except (KeyError, TypeError, RuntimeError) as error:
            raise UserError(
                f"{folder}/{ABOUT} has no head for this encoder ({error}): train the judge again"
            ) from error
        judge.about = about
        return judge

    def score(self, texts: Sequence[str]) -> np.ndarray:
        """Standardised scores of whole texts (prompt and response together), `[n]`, float32."""
        return self.score_rows(self.encode(texts)).numpy()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids with the encoder's own special tokens; too long a text loses its beginning."""
        if not texts:
            return []
        # What a text says is text: a response that spells [SEP] does not end there.
        coded = self.tokenizer(list(texts), return_special_tokens_mask=True, split_special_tokens=True, verbose=False)
        rows = zip(coded["input_ids"], coded["special_tokens_mask"], strict=True)
        return [_end_of(row, special, self.token_limit) for row, special in rows]

    @torch.no_grad()
    def score_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores of token rows, `[n]`, float32, on the CPU."""
        scores = torch.zeros(len(rows))
        for group in token_budget_batches([len(row) for row in rows], self.token_budget):
            scores[group] = self.scores([rows[i] for i in group]).cpu()
        return scores

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores in one go, with gradient, `[n]`, float32."""
        tokens, lengths = right_padded(rows)
        # An encoder looks both ways: here padding must be masked, by length.
        mask = (torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)).to(self.device)
        with computing(self.device, self.compute):
            hidden = self.model(input_ids=tokens.to(self.device), attention_mask=mask.long()).last_hidden_state
        mean = (hidden.float() * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return self.head(mean).squeeze(-1)

    def body(self) -> list[nn.Parameter]:
        """Parameters but the head's."""
        return list(self.model.parameters())

    @torch.no_grad()
    def standardise(self, texts: Sequence[str]) -> dict[str, float]:
        """Gives the scores of `texts` mean 0 and variance 1; returns both on the scale of the training.

        Raises:
            UserError: the scores do not differ.
        """
        mean, std = mean_and_std(self.score_rows(self.encode(texts)).double(), "the judge")
        self.head.weight.div_(std)
        self.head.bias.sub_(mean).div_(std)
        old_mean, old_std = self.about.get("mean", 0.0), self.about.get("std", 1.0)
        said = {"mean": old_mean + old_std * mean, "std": old_std * std}
        self.about |= said
        return said

    def save(self, folder: Path | str) -> None:
        """Writes the encoder as a plain folder, and the head beside it as JSON.

        Raises:
            UserError: the disk refuses.
        """
        head = {"weight": self.head.weight[0].tolist(), "bias": float(self.head.bias.detach())}
        head |= {"token_limit": self.token_limit}
        save_folder(folder, self.model, self.tokenizer, {ABOUT: json.dumps(self.about | head) + "\n"})


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


def whole_text(prompt: Text, response: str) -> str:
    """Prompt and response as the judge reads them: text as it is, chat messages line by line, each behind its role."""
    if isinstance(prompt, str):
        return prompt + response
    said = "".join(f"{message['role']}: {message.get('content') or ''}\n" for message in prompt)
    return said + f"assistant: {response}"


def _end_of(row: list[int], special: Sequence[int], limit: int) -> list[int]:
    """A row within the limit; what is too much goes behind the special tokens that it begins with."""
    first = next((i for i, flag in enumerate(special) if not flag), 0)
    excess = max(0, len(row) - limit)
    return row[:first] + row[first + excess :]
