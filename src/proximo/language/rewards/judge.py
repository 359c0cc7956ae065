"""An independent judge: another architecture (a sentence encoder), trained on ratings that the reward model never saw.

PPO optimises the reward model. Whether the texts got better is asked of the judge, so that learning can be told from
exploiting the reward model's mistakes.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.language.compute.precision import computing
from proximo.language.data.batching import right_padded, token_budget_batches
from proximo.language.data.coder import Text
from proximo.language.models.encoder import context_of_encoder
from proximo.language.models.folders import read_json, save_folder
from proximo.language.models.loading import load_encoder, load_text_tokenizer
from proximo.language.rewards.scale import mean_and_std
from proximo.language.stages import JUDGE as ABOUT


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
