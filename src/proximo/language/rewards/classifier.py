"""Classifiers that read a text both ways (BERT, DeBERTa, …) as rewards: one output, or the log-odds of a label."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.data.batching import token_budget_batches
from proximo.language.data.coder import Text
from proximo.language.models.encoder import context_of_encoder
from proximo.language.rewards.judge import whole_text
from proximo.language.rewards.terms import checked
from proximo.language.sampling.texts import Texts


class Classifier:
    """Scores of a sequence classifier whose tokens see each other both ways.

    With one output it is a reward model, which reads prompt and response as its tokenizer's pair of texts. With several
    it scores whole texts by log p(label) - log(1 - p(label)), as classifiers of sentiment do. Of what is too long it
    reads the end.

    Args:
        model: `transformers` sequence-classification model.
        tokenizer: its tokenizer.
        label: index of the output whose odds are the score; 0 of one output.
        token_budget: tokens, padding included, that go through the network at once.
        compute: type of the matrix products; scores are float32.
    """

    def __init__(
        self, model: Any, tokenizer: Any, label: int = 0, *, token_budget: int = 4096, compute: str = "float32"
    ) -> None:
        self.model, self.tokenizer, self.label = model, tokenizer, label
        self.token_budget, self.compute = token_budget, compute
        self.pairs = model.config.num_labels == 1
        named = int(tokenizer.model_max_length)  # a tokenizer that names no limit says 1e30
        self.context = min(context_of_encoder(model.base_model) or named, named)
        self.cut_share = 0.0
        """Share of the texts scored last that did not fit in whole."""

    @torch.no_grad()
    def score_texts(self, prompts: Sequence[Text], responses: Sequence[str]) -> Tensor:
        """Scores of responses, `[n]`, float32, on the CPU."""
        rows = [self._encode(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
        self.cut_share = sum(row.pop("cut") for row in rows) / max(1, len(rows))
        device = next(self.model.parameters()).device
        scores = torch.zeros(len(rows))
        for group in token_budget_batches([len(row["input_ids"]) for row in rows], self.token_budget):
            inputs = self.tokenizer.pad([rows[i] for i in group], return_tensors="pt", verbose=False).to(device)
            with computing(device, self.compute):
                logits = self.model(**inputs).logits
            scores[group] = log_odds(logits.float(), self.label).cpu()
        return scores

    def _encode(self, prompt: Text, response: str) -> dict[str, Any]:
        """One row's inputs, and whether its beginning is missing; what it spells is text, not special tokens."""
        parts = [_asked(prompt), response] if self.pairs else [whole_text(prompt, response)]
        settings = {"verbose": False, "split_special_tokens": True}
        coded = dict(self.tokenizer(*parts, **settings))
        excess = len(coded["input_ids"]) - self.context
        if excess <= 0:
            return coded | {"cut": 0}
        first = self.tokenizer(parts[0], add_special_tokens=False, return_offsets_mapping=True, **settings)
        starts = [start for start, _ in first["offset_mapping"]]
        if excess >= len(starts) and (self.pairs or excess > len(starts)):
            raise UserError(
                f"response {response[:50]!r} alone is longer than the classifier's context of {self.context} tokens: "
                "lower response_limit"
            )
        kept = parts[0][starts[excess] :]
        coded = dict(self.tokenizer(*[kept, *parts[1:]], truncation=True, max_length=self.context, **settings))
        return coded | {"cut": 1}


class ClassifierReward:
    """A classifier as a reward term."""

    def __init__(self, model: Classifier, weight: float = 1.0, name: str = "classifier") -> None:
        self.model, self.weight, self.name = model, weight, name

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`.

        Raises:
            UserError: a response is too long for it, or a score is not a finite number.
        """
        try:
            scores = self.model.score_texts(texts.sources or texts.prompts, texts.responses)
        except UserError as error:
            raise UserError(f"reward {self.name}: {error}") from error
        return checked(self.name, scores.tolist(), texts)


def log_odds(logits: Tensor, label: int) -> Tensor:
    """Log p - log(1 - p) of a label, `[n]`, of logits `[n, labels]`; the number itself where there is one."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    others = torch.cat([logits[:, :label], logits[:, label + 1 :]], 1)
    return logits[:, label] - others.logsumexp(1)


@torch.no_grad()
def one_number(head: nn.Linear, label: int) -> nn.Linear:
    """A head of two labels as one number, the log-odds of one of them, which is linear too."""
    made = nn.Linear(
        head.in_features, 1, bias=head.bias is not None, device=head.weight.device, dtype=head.weight.dtype
    )
    made.weight.copy_((head.weight[label] - head.weight[1 - label]).unsqueeze(0))
    if head.bias is not None:
        made.bias.copy_(head.bias[label] - head.bias[1 - label])
    return made


def _asked(prompt: Text) -> str:
    """A prompt as a reward model of pairs reads it: the messages line by line, or the one there is."""
    if isinstance(prompt, str):
        return prompt
    if len(prompt) == 1:
        return str(prompt[0].get("content") or "")
    return "\n".join(f"{message['role']}: {message.get('content') or ''}" for message in prompt)
