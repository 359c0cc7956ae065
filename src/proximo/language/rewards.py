"""What scores responses: reward models and Python functions, weighted and logged one by one."""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from proximo.runs.errors import UserError
from proximo.runs.own_module import find_own, on_one_line

RewardFunction = Callable[..., Sequence[float]]
"""f(prompts, responses, **columns) -> one number per response; columns are the prompts' other fields, as lists."""


@dataclass(frozen=True)
class Sampled:
    """The tokens behind some texts, for reward models that read as the policy does."""

    tokenizer: Any
    """The policy's."""
    prompts: list[list[int]]
    responses: list[list[int]]
    """Without the token that ended them."""


@dataclass(frozen=True)
class Texts:
    """Prompts and responses as text, with what the prompts' rows hold beside the prompt: what a reward term reads."""

    prompts: list[str]
    responses: list[str]
    columns: Mapping[str, list[Any]]
    finished: list[bool]
    sources: list[Any] = field(default_factory=list)
    """The prompts as their rows have them: text or chat messages."""
    sampled: Sampled | None = None
    """The tokens as they were sampled, where they were."""


class RewardTerm(Protocol):
    """One part of the reward."""

    name: str
    weight: float

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`, float32."""


class FunctionReward:
    """A Python function as a reward term."""

    def __init__(self, function: RewardFunction, weight: float = 1.0, name: str = "") -> None:
        self.function, self.weight = function, weight
        self.name = name or getattr(function, "__name__", type(function).__name__)

    def check_columns(self, names: Collection[str]) -> None:
        """Refuse data with a column that is called as the function calls the prompts or the responses.

        Args:
            names: of the columns.

        Raises:
            UserError: there is one.
        """
        if taken := [name for name in _first_two(self.function) if name in names]:
            raise UserError(
                f"the prompts' rows have a column {taken[0]!r}, but reward {self.name} calls what it scores so: rename "
                "the column"
            )

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`.

        Raises:
            UserError: a column has a name that is taken; the function fails, gives the wrong count, or what is not a
                finite number.
        """
        self.check_columns(texts.columns)
        try:
            scores = self.function(texts.prompts, texts.responses, **texts.columns)
            scores = list(scores) if isinstance(scores, Iterator) else scores  # a generator runs only now
        except Exception as error:  # it is the user's own code: whatever it raises, say whose it is
            raise UserError(f"reward {self.name} failed ({on_one_line(error)}): correct the function") from error
        try:
            numbers = [float(x) for x in scores]
        except (TypeError, ValueError, OverflowError) as error:
            raise UserError(f"reward {self.name} must give one number per response ({error})") from error
        return _checked(self.name, numbers, texts)


class ModelReward:
    """A reward model as a reward term.

    It reads the tokens that were sampled where its tokenizer and template are the policy's, or else the text through
    its own.
    """

    def __init__(self, model: Any, weight: float = 1.0, name: str = "reward_model") -> None:
        self.model, self.weight, self.name = model, weight, name
        self._alike: tuple[Any, bool] = (None, False)

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`, standardised as the model was saved.

        Raises:
            UserError: a text is too long for the model, or a score is not a finite number.
        """
        asked = texts.sources or texts.prompts
        try:
            if texts.sampled is not None and self._reads_as(texts.sampled.tokenizer):
                sampled = texts.sampled
                scores = self.model.score_sampled(asked, sampled.prompts, sampled.responses, texts.finished)
            else:
                scores = self.model.score_texts(asked, texts.responses, finished=texts.finished)
        except UserError as error:
            raise UserError(f"reward {self.name}: {error}") from error
        return _checked(self.name, scores.tolist(), texts)

    def _reads_as(self, tokenizer: Any) -> bool:
        if self._alike[0] is not tokenizer:
            reads_as = getattr(self.model, "reads_as", None)
            self._alike = tokenizer, reads_as is not None and reads_as(tokenizer)
        return self._alike[1]


def combine(terms: Sequence[RewardTerm], texts: Texts) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of all reward terms `[B]`, and each term's own scores by name."""
    each = {term.name: term(texts) for term in terms}
    total = torch.stack([term.weight * each[term.name] for term in terms]).sum(0)
    return total, each


def cut_prompts(terms: Sequence[RewardTerm]) -> list[str]:
    """A sentence for each reward model that, in its last scores, read only the end of some prompts."""
    cut = {term.name: term.model.cut_share for term in terms if isinstance(term, ModelReward)}
    return [f"reward {name} read only the end of {share:.0%} of the prompts" for name, share in cut.items() if share]


def function_from(path: str, folder: str = "") -> RewardFunction:
    """The function that `module:function` names.

    Args:
        path: `module:function`.
        folder: where to look for the module first; the current one comes next.

    Raises:
        UserError: there is none.
    """
    function: RewardFunction = find_own(path, "reward", folder=folder)
    return function


def _first_two(function: RewardFunction) -> list[str]:
    """What a function calls the prompts and the responses."""
    try:
        parameters = list(inspect.signature(function).parameters.values())[:2]
    except (TypeError, ValueError):  # it is not written in Python
        return []
    return [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]


def _checked(name: str, numbers: list[float], texts: Texts) -> Tensor:
    if len(numbers) != len(texts.responses):
        raise UserError(
            f"reward {name} gave {len(numbers)} scores for {len(texts.responses)} responses: it must give one for each"
        )
    scores = torch.tensor(numbers, dtype=torch.float32)  # in which 1e300 is infinite
    for i, finite in enumerate(scores.isfinite().tolist()):
        if not finite:
            raise UserError(
                f"reward {name} gave {numbers[i]} for response {i} ({texts.responses[i][:60]!r} to "
                f"{texts.prompts[i][:40]!r}): it must give finite numbers, below 3.4e38 in size"
            )
    return scores
