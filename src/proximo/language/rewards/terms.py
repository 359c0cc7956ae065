"""What scores responses: reward models and Python functions, weighted and logged one by one."""

import sys
from collections.abc import Callable, Collection, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from proximo.errors import UserError
from proximo.language.rewards.calls import RewardCall, scores_of
from proximo.language.sampling.texts import Texts
from proximo.runs.plugins import find_own

RewardFunction = Callable[..., Any]
"""f(prompts, responses, **columns) -> one number per response; columns are the prompts' other fields, as lists."""


class RewardTerm(Protocol):
    """One part of the reward."""

    name: str
    weight: float

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`, float32."""


class FunctionReward:
    """A Python function as a reward term; see `RewardCall` for what it is given.

    Args:
        function: gives one number per response, or None where it does not apply to one, which counts 0.
        weight: of its scores.
        name: in metrics and messages; the function's own if empty.
    """

    def __init__(self, function: RewardFunction, weight: float = 1.0, name: str = "") -> None:
        self.function, self.weight = function, weight
        self.name = name or getattr(function, "__name__", type(function).__name__)
        self._call = RewardCall(function, self.name)

    def check_columns(self, names: Collection[str]) -> None:
        """Refuse columns that the function can not be given, or lacks; see `RewardCall.check_columns`.

        Raises:
            UserError: there is one.
        """
        self._call.check_columns(names)

    def __call__(self, texts: Texts) -> Tensor:
        """Scores `[B]`, NaN where the function gives None.

        Raises:
            UserError: a column has a name that is taken; the function fails, gives the wrong count, or what is not a
                finite number.
        """
        self.check_columns(texts.columns)
        result = self._call(texts.prompts, texts.responses, texts.sources, texts.columns)
        return checked(self.name, scores_of(result, self.name), texts)


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
        return checked(self.name, scores.tolist(), texts)

    def _reads_as(self, tokenizer: Any) -> bool:
        if self._alike[0] is not tokenizer:
            reads_as = getattr(self.model, "reads_as", None)
            self._alike = tokenizer, reads_as is not None and reads_as(tokenizer)
        return self._alike[1]


def combine(terms: Sequence[RewardTerm], texts: Texts, how: str = "sum") -> tuple[Tensor, dict[str, Tensor]]:
    """All reward terms as one number `[B]`, and each term's own scores by name.

    An ensemble of reward models, taught by different people or seeds, agrees where it knows: `min` (worst case) and
    `mean-std` believe a response only as far as all of them do (Coste et al. 2024, eq. 4 and 5, with the standard
    deviation for the variance).

    Args:
        terms: scores are multiplied by the weights first.
        texts: what is scored.
        how: sum, mean, min or mean-std, over the terms that apply to a response (NaN says that one does not).
    """
    each = {term.name: term(texts) for term in terms}
    return combined(torch.stack([term.weight * each[term.name] for term in terms]), how), each


def combined(scores: Tensor, how: str) -> Tensor:
    """One number `[B]` of weighted scores `[terms, B]`, see `combine`; 0 where no term applies.

    Raises:
        ValueError: `how` is none of the words.
    """
    mean = scores.nanmean(0).nan_to_num(0.0)
    if how == "sum":
        return scores.nan_to_num(0.0).sum(0)
    if how == "mean":
        return mean
    if how == "min":
        return torch.where(scores.isnan().all(0), 0.0, scores.nan_to_num(torch.inf).amin(0))
    if how == "mean-std":
        return mean - (scores - mean).square().nanmean(0).nan_to_num(0.0).sqrt()
    raise ValueError(f"combine = {how!r} must be sum, mean, min or mean-std")


def cut_prompts(terms: Sequence[RewardTerm]) -> list[str]:
    """A sentence for each reward model that, in its last scores, read only the end of some prompts."""
    cut = {term.name: term.model.cut_share for term in terms if hasattr(term, "model")}
    return [f"reward {name} read only the end of {share:.0%} of the prompts" for name, share in cut.items() if share]


def function_from(path: str, folder: str = "") -> RewardFunction:
    """The function that `module:function` names.

    Args:
        path: `module:function`.
        folder: where to look for the module first; the current one comes next.

    Raises:
        UserError: there is none.
    """
    place, _, name = path.partition(":")
    # A script's or notebook's own functions are there for as long as it runs.
    if "<" in name or (place == "__main__" and not hasattr(sys.modules[place], name)):
        raise UserError(
            f"reward {path} is a function that no module holds: give it as rewards= to proximo.language.train or "
            "compare, or, for all else, define it at the top of a module or a script and train with that"
        )
    function: RewardFunction = find_own(path, "reward", folder=folder)
    return function


def checked(name: str, numbers: Sequence[float | None], texts: Texts) -> Tensor:
    """Scores `[B]`, float32, if there is one for each response; NaN where there is None.

    Raises:
        UserError: there are more or fewer, or one is not finite.
    """
    if len(numbers) != len(texts.responses):
        raise UserError(
            f"reward {name} gave {len(numbers)} scores for {len(texts.responses)} responses: it must give one for each"
        )
    applies = [number is not None for number in numbers]
    scores = torch.tensor([0.0 if x is None else x for x in numbers], dtype=torch.float32)  # in which 1e300 is infinite
    for i, finite in enumerate(scores.isfinite().tolist()):
        if not finite:
            raise UserError(
                f"reward {name} gave {numbers[i]} for response {i} ({texts.responses[i][:60]!r} to "
                f"{texts.prompts[i][:40]!r}): it must give finite numbers, below 3.4e38 in size, or None where it does "
                "not apply"
            )
    return torch.where(torch.tensor(applies, dtype=torch.bool), scores, torch.nan)
