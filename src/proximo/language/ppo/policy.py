"""Roles as the policy that `core.updates.update` trains: log-probs, entropies and values of response tokens only."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from proximo.core.batch import Batch, Evaluation
from proximo.core.ranks import ALONE, Ranks
from proximo.language.compute.precision import computing
from proximo.language.compute.recomputing import recomputing
from proximo.language.data.batching import token_budget_batches
from proximo.language.models.caches import Kind
from proximo.language.roles.lm_head import token_log_probs
from proximo.language.roles.sharing import Roles


class LanguagePolicy:
    """Evaluates batches of responses.

    A batch's inputs are `tokens` `[B, L]` (prompt, then response, right-padded), `prompt_lengths` `[B]` and, where the
    roles share a trunk, its `states` `[B, L, d]`. Actions, log-probs and weights are `[B, R]`.

    Args:
        roles: policy and critic.
        temperature: the sampler's.
        need_entropy: whether the entropy has a gradient.
        compute: type of the matrix products, float32 or bfloat16.
        token_budget: tokens, padding included, that go through a network at once.
        cache: what the policy is sampled with, see `usable_cache`.
        ranks: that compute each network together, and so have to run it equally often; alone where each has all of it.
    """

    def __init__(
        self,
        roles: Roles,
        *,
        temperature: float = 1.0,
        need_entropy: bool = False,
        compute: str = "float32",
        token_budget: int = 4096,
        cache: Kind = "dynamic",
        ranks: Ranks = ALONE,
    ) -> None:
        self.cache, self.ranks = cache, ranks
        self.roles, self.temperature, self.need_entropy = roles, temperature, need_entropy
        self.compute, self.token_budget = compute, token_budget
        self.tokens_read = self.tokens_paid = 0
        """Tokens that went through in parts so far, without and with padding."""

    def computing(self) -> AbstractContextManager[object]:
        """The precision of matrix products."""
        return computing(self.roles.head.weight.device, self.compute)

    def evaluate(self, batch: Batch) -> Evaluation:
        """Log-prob, entropy and value of every response token, each `[B, R]`, 0 on padding."""
        tokens, states = batch.inputs["tokens"], batch.inputs.get("states")
        rows, steps, columns = response_positions(batch)
        with self.computing(), recomputing(self.roles) if torch.is_grad_enabled() else nullcontext():
            targets = batch.action[rows, steps]
            hidden, log_prob, entropy = self.roles.as_policy(self._said, tokens, states, rows, columns, targets)
            critic = self.roles.value_states(hidden, tokens, states)
        value = self.roles.value_head(critic[rows, columns].float()).squeeze(1)
        log_prob, entropy, value = (_spread(x, rows, steps, batch.action) for x in (log_prob, entropy, value))
        return Evaluation(log_prob, entropy, value)

    def _said(
        self, tokens: Tensor, states: Tensor | None, rows: Tensor, columns: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        hidden, _ = self.roles.policy(tokens, states)
        head = self.roles.head
        log_prob, entropy = token_log_probs(
            hidden[rows, columns],
            head.weight,
            targets,
            temperature=self.temperature,
            bias=head.bias,
            need_entropy=self.need_entropy,
        )
        return hidden, log_prob, entropy

    @torch.no_grad()
    def reference_log_probs(self, batch: Batch) -> Tensor:
        """Log-probs of the response tokens under the reference, `[B, R]`, 0 on padding."""
        result = torch.zeros_like(batch.log_prob)
        head = self.roles.reference_head
        for index, part in self.parts(batch):
            rows, steps, columns = response_positions(part)
            with self.computing(), self.roles.as_reference() as reference:
                hidden, _ = reference(part.inputs["tokens"], part.inputs.get("states"))
                log_prob, _ = token_log_probs(
                    hidden[rows, columns],
                    head.weight,
                    part.action[rows, steps],
                    temperature=self.temperature,
                    bias=head.bias,
                )
            _put(result, index, _spread(log_prob, rows, steps, part.action))
        return result

    @torch.no_grad()
    def scored(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probs and values of a batch under the policy as it is, `[B, R]` each, without gradient."""
        log_prob, value = torch.zeros_like(batch.log_prob), torch.zeros_like(batch.log_prob)
        for index, part in self.parts(batch):
            evaluation = self.evaluate(part)
            assert evaluation.value is not None
            _put(log_prob, index, evaluation.log_prob)
            _put(value, index, evaluation.value)
        return log_prob, value

    @torch.no_grad()
    def values(self, batch: Batch) -> Tensor:
        """Values of a critic with layers of its own, `[B, R]`; the policy is not run."""
        value = torch.zeros_like(batch.log_prob)
        for index, part in self.parts(batch):
            rows, steps, columns = response_positions(part)
            with self.computing():
                hidden = self.roles.critic_hidden(part.inputs["tokens"], part.inputs.get("states"))
            seen = self.roles.value_head(hidden[rows, columns].float()).squeeze(1)
            _put(value, index, _spread(seen, rows, steps, part.action))
        return value

    def parts(self, batch: Batch) -> Iterator[tuple[Tensor, Batch]]:
        """The batch by rows of like length, each part cut to its longest row and within the token budget.

        All ranks give equally many: one with fewer adds parts of one token that counts for nothing.

        Yields:
            The rows' indices, none for what was added, and the part.
        """
        responses = (batch.weight > 0).sum(1)
        read = batch.inputs["prompt_lengths"] + responses - 1  # the last token predicts nothing that is trained
        lengths = read.tolist()
        groups = token_budget_batches(lengths, self.token_budget)
        missing = self.ranks.most(len(groups)) - len(groups)
        for rows in groups:
            index = torch.tensor(rows, device=batch.weight.device)
            self.tokens_read += sum(lengths[i] for i in rows)
            self.tokens_paid += len(rows) * max(lengths[i] for i in rows)
            yield index, _cut(batch[index], int(read[index].max()), int(responses[index].max()))
        for _ in range(missing):
            nothing = _cut(batch[:1], 1, 1)
            yield index[:0], nothing.replace(weight=torch.zeros_like(nothing.weight))

    def split(self, batch: Batch) -> Iterator[Batch]:
        """The parts alone."""
        return (part for _, part in self.parts(batch))


def response_positions(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Where response tokens are, `[n]` each: row, step of the response, and the column whose state predicts it."""
    rows, steps = (batch.weight > 0).nonzero(as_tuple=True)
    return rows, steps, batch.inputs["prompt_lengths"][rows] - 1 + steps


def _spread(x: Tensor, rows: Tensor, steps: Tensor, like: Tensor) -> Tensor:
    return torch.zeros(like.shape, device=x.device, dtype=x.dtype).index_put((rows, steps), x)


def _put(result: Tensor, index: Tensor, x: Tensor) -> None:
    """Write a part's rows into those of the whole; what a rank has added to its parts has none."""
    result[index, : x.shape[1]] = x[: len(index)]


def _cut(batch: Batch, width: int, steps: int) -> Batch:
    widths = dict.fromkeys(batch.inputs, width) | {"ref_log_prob": steps}
    inputs = {k: x[:, : widths[k]] if x.dim() > 1 else x for k, x in batch.inputs.items()}
    names = ("action", "log_prob", "value", "advantages", "returns", "weight")
    return Batch(inputs=inputs, **{name: getattr(batch, name)[:, :steps] for name in names})
