"""A reward model: a language model's layers with one number at the last token of prompt and response."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.compute.recomputing import recomputing
from proximo.language.data.batching import right_padded, token_budget_batches
from proximo.language.data.coder import Coder, Text, end_of_chat
from proximo.language.data.template import reads_alike
from proximo.language.models.context import context_of
from proximo.language.models.folders import read_json, save_folder
from proximo.language.models.loading import load_sequence_classifier, load_tokenizer, locate, new_sequence_classifier
from proximo.language.rewards.scale import mean_and_std

ABOUT = "proximo_reward.json"


class RewardModel:
    """Scores texts with its own tokenizer and template.

    The score is read at the last token by length: no padding is looked for, so EOS may be the padding token or stand
    within a prompt. Attention is causal and padding follows, so no mask is needed.

    Args:
        model: `transformers` sequence-classification model with one label and a linear head named `score`.
        tokenizer: its tokenizer, with an EOS token.
        mean: of the scores before standardisation.
        std: of the scores before standardisation: raw score = standardised * std + mean, but for `standardise`'s
            remark on heads without bias.
        token_budget: tokens, padding included, that go through the network at once.
        compute: type of the matrix products; scores are float32.

    Raises:
        UserError: the model has no such head.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        token_budget: int = 4096,
        compute: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        head = getattr(model, "score", None)
        if not isinstance(head, nn.Linear) or head.out_features != 1:
            raise UserError(
                f"{type(model).__name__} has no linear head `score` with one number: make the reward model from a "
                "causal language model"
            )
        self.model, self.tokenizer, self.head = model, tokenizer, head
        self.decoder = model.base_model
        self.mean, self.std = mean, std
        self.token_budget, self.compute = token_budget, compute
        self.about: dict[str, Any] = {}
        self.cut_share = 0.0
        """Share of the texts scored last whose prompt did not fit in whole, see `tokens`."""
        self._coder = Coder(tokenizer)

    @classmethod
    def from_language_model(
        cls,
        name: str,
        *,
        layers: int | None = None,
        seed: int = 0,
        device: torch.device | str = "cpu",
        trust_remote_code: bool = False,
        day: str = "",
        **settings: Any,
    ) -> "RewardModel":
        """A reward model with a new head on (the lowest `layers` of) a language model.

        Args:
            name: folder, hub name or `builtin:smollm2`.
            layers: lowest layers to keep; None keeps all.
            seed: of the head.
            device: where to put it.
            trust_remote_code: whether Python code in the model's folder may run.
            day: see `load_tokenizer`.
            settings: token_budget and compute.

        Raises:
            UserError: it can not be loaded, or has fewer layers.
        """
        tokenizer = load_tokenizer(name, trust_remote_code=trust_remote_code, day=day)
        cut: dict[str, Any] = {} if layers is None else {"num_hidden_layers": _layers(name, layers)}
        model = new_sequence_classifier(name, device=device, trust_remote_code=trust_remote_code, **cut)
        separate_padding(model, tokenizer)
        reward = cls(model, tokenizer, **settings)
        initialise_head(reward.head, torch.Generator().manual_seed(seed))
        return reward

    @classmethod
    def load(
        cls,
        folder: str,
        *,
        device: torch.device | str = "cpu",
        trust_remote_code: bool = False,
        day: str = "",
        **settings: Any,
    ) -> "RewardModel":
        """A reward model from the folder that `save` (or anyone) wrote.

        Args:
            folder: of a sequence-classification model with one label.
            device: where to put it.
            trust_remote_code: whether Python code in the folder may run.
            day: see `load_tokenizer`.
            settings: token_budget and compute.

        Raises:
            UserError: it can not be loaded, or is no reward model.
        """
        refuse_other_kinds(folder)
        tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code, day=day)
        model = load_sequence_classifier(folder, device=device, trust_remote_code=trust_remote_code)
        about = about_of(folder)
        reward = cls(model, tokenizer, mean=about.get("mean", 0.0), std=about.get("std", 1.0), **settings)
        reward.about = about
        return reward

    @property
    def context(self) -> int | None:
        """Tokens that it can read; None where it names no limit."""
        return context_of(self.model)

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.head.weight.device

    def body(self) -> list[nn.Parameter]:
        """Parameters but the head's."""
        return list(self.decoder.parameters())

    def score_texts(
        self, prompts: Sequence[Text], responses: Sequence[str], finished: Sequence[bool] | None = None
    ) -> Tensor:
        """Scores of responses as text.

        Args:
            prompts: texts, or chat messages that this model's own template renders.
            responses: one for each prompt, without EOS.
            finished: whether the response ended; EOS is put behind those that did. None: all did.

        Returns:
            `[n]`, float32, on the CPU.

        Raises:
            UserError: a response is longer than the context, see `tokens`.
        """
        ended = [True] * len(responses) if finished is None else finished
        coder = Coder(self.tokenizer)  # its memory of texts lives as long as this call
        return self._score_parts(
            [
                (coder.prompt_ids(prompt), coder.response_ids(prompt, response, finished=bool(end)))
                for prompt, response, end in zip(prompts, responses, ended, strict=True)
            ]
        )

    def reads_as(self, tokenizer: Any) -> bool:
        """Whether it makes the same tokens of the same texts as a tokenizer does, chat messages included."""
        return reads_alike(tokenizer, self.tokenizer)

    def score_sampled(
        self,
        prompts: Sequence[Text],
        prompt_tokens: Sequence[Sequence[int]],
        response_tokens: Sequence[Sequence[int]],
        finished: Sequence[bool],
    ) -> Tensor:
        """Scores of responses as they were sampled by a policy that reads as this model does, see `reads_as`.

        Args:
            prompts: texts, or chat messages: they say with what a response ends.
            prompt_tokens: of the prompts.
            response_tokens: without the token that ended them; what ends a response here is put behind those that did.
            finished: whether the response ended.

        Returns:
            `[n]`, float32, on the CPU.

        Raises:
            UserError: a response is longer than the context.
        """
        ends = [[self._coder.end(prompt)] if end else [] for prompt, end in zip(prompts, finished, strict=True)]
        responses = [[*tokens, *end] for tokens, end in zip(response_tokens, ends, strict=True)]
        return self._score_parts([(list(p), r) for p, r in zip(prompt_tokens, responses, strict=True)])

    def sampled_tokens(self, prompt: Text, before: Sequence[int], after: Sequence[int], *, finished: bool) -> list[int]:
        """What `score_sampled` reads of one prompt and its response.

        Raises:
            UserError: the response alone is longer than the context.
        """
        return self._fitting(list(before), [*after, *([self._coder.end(prompt)] if finished else [])])

    def _score_parts(self, parts: Sequence[tuple[list[int], list[int]]]) -> Tensor:
        """Scores of prompts with their responses, and how many prompts did not fit in whole."""
        rows = [self._fitting(before, after) for before, after in parts]
        cut = sum(len(row) < len(before) + len(after) for row, (before, after) in zip(rows, parts, strict=True))
        self.cut_share = cut / max(1, len(rows))
        return self.score(rows)

    def prompt_length(self, prompt: Text) -> int:
        """Tokens of a prompt as this model reads it."""
        return len(self._coder.prompt_ids(prompt))

    def tokens(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Prompt, response and (if it ended) EOS as this model reads them.

        Of a prompt that does not fit into the context with its response, only the end is read: how many tokens a
        response of another tokenizer's has here is known only once it is there.

        Raises:
            UserError: the response alone is longer than the context.
        """
        before = self._coder.prompt_ids(prompt)
        return self._fitting(before, self._coder.response_ids(prompt, response, finished=finished), response)

    def _fitting(self, before: list[int], after: list[int], response: str = "") -> list[int]:
        """Tokens of prompt and response, without the prompt's first ones if there is no room; BOS stays."""
        limit = self.context
        if limit is None or len(before) + len(after) <= limit:
            return before + after
        if len(after) > limit:
            response = (response or self.tokenizer.decode(after, skip_special_tokens=True))[:50]
            raise UserError(
                f"response {response!r} has {len(after)} of the reward model's tokens, its context is {limit}: "
                "lower response_limit, or take a reward model with a longer context"
            )
        room = limit - len(after)
        start = before[:1] if room and before[:1] == [self.tokenizer.bos_token_id] else []
        return [*start, *before[len(before) - room + len(start) :], *after]

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores of token rows (this model's tokens, EOS included).

        Returns:
            `[n]`, float32, on the CPU.

        Raises:
            UserError: a row is empty or longer than the model's context.
        """
        self._check(rows)
        scores = torch.zeros(len(rows))
        for group in token_budget_batches([len(row) for row in rows], self.token_budget):
            scores[group] = self.scores([rows[i] for i in group]).cpu()
        return scores

    def scores(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Scores in one go, with gradient, `[n]`, float32."""
        return self.head_scores(self.last_states(rows))

    def head_scores(self, states: Tensor) -> Tensor:
        """Scores `[n]` of last states `[n, d]`."""
        return self.head(states.to(self.head.weight.dtype)).float().squeeze(-1)

    def last_states(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Hidden state at the last token of each row, `[n, d]`."""
        tokens, lengths = right_padded(rows)
        with computing(self.device, self.compute), recomputing(self.decoder):
            hidden = self.decoder(input_ids=tokens.to(self.device), use_cache=False).last_hidden_state
        return hidden[torch.arange(len(rows)), lengths - 1]

    @torch.no_grad()
    def standardise(self, rows: Sequence[Sequence[int]]) -> dict[str, float]:
        """Changes the head so that the scores of `rows` have mean 0 and variance 1, for plain `transformers` as well.

        The scale goes into the head's weight. A head with bias takes the shift too; the heads of `transformers`'
        decoders have none, so the shift is taken along v, the direction in which the last states differ least while
        their mean is 1 there: v = (C + λ)^-1 μ / (μ' (C + λ)^-1 μ) for mean μ and covariance C. The new scores are
        exactly standardised, but equal the old ones only up to `shift_noise` (standard deviations).

        Done again on other texts, `mean` and `std` still lead back to the scale of the training.

        Args:
            rows: tokens of at least two texts, of the kind that will be scored.

        Returns:
            mean and std of the training's scale on these texts, and shift_noise.

        Raises:
            UserError: the scores do not differ.
        """
        self._check(rows)
        groups = token_budget_batches([len(row) for row in rows], self.token_budget)
        states = torch.cat([self.last_states([rows[i] for i in group]) for group in groups]).double()
        weight = self.head.weight[0].double()
        bias = self.head.bias
        raw = states @ weight + (0.0 if bias is None else bias.double())
        mean, std = mean_and_std(raw, "the reward model")
        noise = 0.0
        if bias is not None:
            bias.copy_((bias.double() - mean) / std)
        else:
            shift = mean * _constant_direction(states)
            noise = float((states @ shift).std(unbiased=False)) / std
            weight = weight - shift
        # Measured again: without a bias the shift has changed the deviation a little.
        self.head.weight.copy_((weight / (states @ weight).std(unbiased=False)).unsqueeze(0))
        self.mean, self.std = self.mean + self.std * mean, self.std * std
        said = {"mean": self.mean, "std": self.std, "shift_noise": noise}
        self.about |= said
        return said

    def save(self, folder: Path | str) -> None:
        """Writes a plain sequence-classification folder; `transformers` gives the same standardised scores.

        Raises:
            UserError: the disk refuses.
        """
        about = {
            "format": 1,
            "template": "prompt + response + EOS; chat messages by the template with its generation prompt, then the "
            "response and the template's end of turn",
            "score": "at the last token; standardised = (raw - mean) / std is folded into score.weight",
            **self.about,
            "mean": self.mean,
            "std": self.std,
        }
        save_folder(folder, self.model, self.tokenizer, {ABOUT: json.dumps(about, indent=2) + "\n"})

    def _check(self, rows: Sequence[Sequence[int]]) -> None:
        limit = self.context
        for i, row in enumerate(rows):
            if not row:
                raise UserError(f"text {i} for the reward model has no token: remove it")
            if limit is not None and len(row) > limit:
                raise UserError(
                    f"text {i} has {len(row)} tokens, but the reward model's context is {limit}: shorten prompts or "
                    "responses"
                )


def refuse_other_kinds(folder: str) -> None:
    """Refuses the folder of another model than a sequence classifier.

    Raises:
        UserError: it is one.
    """
    config = Path(locate(folder)) / "config.json"
    kinds = (read_json(config).get("architectures") or []) if config.is_file() else []
    if kinds and not any("SequenceClassification" in kind for kind in kinds):
        raise UserError(f"{folder} holds a {kinds[0]}, not a reward model: train one from it (proximo rlhf reward)")


def about_of(folder: str) -> dict[str, Any]:
    """What our own training wrote beside a reward model: its scale and its report; nothing beside others."""
    file = Path(locate(folder)) / ABOUT
    return read_json(file) if file.is_file() else {}


@torch.no_grad()
def initialise_head(head: nn.Linear, generator: torch.Generator) -> None:
    """N(0, 1 / sqrt(d + 1)), bias 0 (Huang et al. 2023, detail 8 of the reward model)."""
    std = 1.0 / math.sqrt(head.in_features + 1)
    head.weight.copy_(torch.randn(head.weight.shape, generator=generator) * std)
    if head.bias is not None:
        head.bias.zero_()


def separate_padding(model: Any, tokenizer: Any) -> None:
    """Gives model and tokenizer a padding token that is not EOS: plain `transformers` reads the score before padding.

    It finds the last token by `ids != pad`, so with pad = EOS it would read the token before EOS. An own special token
    is taken that no text ends with, else a new one is added.
    """
    eos = tokenizer.eos_token_id
    ends = {eos, end_of_chat(tokenizer, [{"role": "user", "content": "?"}])}
    if tokenizer.pad_token_id in (None, *ends):
        others = [tokenizer.unk_token, tokenizer.bos_token, *tokenizer.all_special_tokens]
        usable = [t for t in others if t is not None and tokenizer.convert_tokens_to_ids(t) not in ends]
        if usable:
            tokenizer.pad_token = usable[0]
        else:
            tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        size = model.get_input_embeddings().num_embeddings
        if tokenizer.pad_token_id >= size:
            model.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id


def _constant_direction(states: Tensor) -> Tensor:
    """V with mean(states @ v) = 1 and as little variance as possible, `[d]`; λ keeps it from fitting the sample."""
    mean = states.mean(0)
    centred = states - mean
    covariance = centred.T @ centred / len(states)
    size = len(mean)
    penalty = 1e-3 * covariance.trace() / size + 1e-12
    v = torch.linalg.solve(covariance + penalty * torch.eye(size, dtype=states.dtype, device=states.device), mean)
    return v / (mean @ v)


def _layers(name: str, layers: int) -> int:
    place = Path(locate(name)) / "config.json"
    have = read_json(place).get("num_hidden_layers") if place.is_file() else None
    if have is not None and layers > have:
        raise UserError(f"layers = {layers}, but {name} has {have}: use at most that")
    return layers
