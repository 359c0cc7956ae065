"""Rows of text -> rows of tokens: what is trained is what is tokenised here, once.

Rows come from files (see `row_files`), a `Dataset` object or a list of dictionaries. A prompt is text or a list of chat
messages `{"role", "content"}`; a response is text or one message of the assistant; `row_shapes` has what else is taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from proximo.errors import UserError
from proximo.language.data.coder import Coder, Text
from proximo.language.data.parts import part_of
from proximo.language.data.prompts import Prompt
from proximo.language.data.rows import Rows, check_numbers, read_fields

Item = TypeVar("Item")


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """What was read, and what was not."""

    items: list[Item]
    dropped: int = 0
    """Over-long rows left out."""
    message: str = ""
    """One sentence on rows that were dropped, or cut; empty when there are none."""


@dataclass(frozen=True)
class Example:
    """A prompt and the response to learn, with the token that ends it; prompt + response is what the model reads."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, each as prompt + response + the token that ends it."""

    chosen: list[int]
    rejected: list[int]
    label: float = 1.0
    """Share of people who preferred chosen."""
    margin: float = 0.0
    """By how much the scores should differ at even odds."""
    source: str = ""
    """Where the pair is from, for accuracies by source."""
    difference: float | None = None
    """How much better chosen is by another measure, for accuracies by margin; None is unknown."""


def load_prompts(source: Any, tokenizer: Any, token_limit: int, *, rows_limit: int | None = None) -> Loaded[Prompt]:
    """Prompts `{"prompt", ...}`; the other columns are kept for reward functions.

    Args:
        source: see `read_rows`.
        tokenizer: of the policy.
        token_limit: longest prompt.
        rows_limit: rows to read at most, the first ones.

    Raises:
        UserError: rows without a prompt (file, lines, how many), or every prompt is too long.
    """
    rows = read_fields(source, ("prompt",), rows_limit)
    coder = Coder(tokenizer)

    def prompt(row: Mapping[str, Any]) -> Prompt:
        columns = {name: value for name, value in row.items() if name != "prompt"}
        return Prompt(_asked(coder, row["prompt"]), coder.prompt_text(row["prompt"]), columns, row["prompt"])

    return _short_enough(_each(rows, prompt), lambda item: len(item.tokens), rows, "prompts", token_limit)


def load_examples(
    source: Any, tokenizer: Any, token_limit: int, *, context: int | None = None, rows_limit: int | None = None
) -> Loaded[Example]:
    """Rows `{"prompt", "response"}` for supervised fine-tuning.

    Args:
        source: see `read_rows`.
        tokenizer: with an EOS token.
        token_limit: longest prompt and response together.
        context: of the model, which bounds them too; None bounds nothing.
        rows_limit: rows to read at most, the first ones.

    Raises:
        UserError: rows with missing or empty fields (file, lines, how many), or every row is too long.
    """
    rows = read_fields(source, ("prompt", "response"), rows_limit)
    coder = Coder(tokenizer)

    def example(row: Mapping[str, Any]) -> Example:
        asked, said = row["prompt"], row["response"]
        return Example(_asked(coder, asked), coder.response_ids(asked, coder.without_frame(asked, said)))

    def length(item: Example) -> int:
        return len(item.prompt) + len(item.response)

    return _short_enough(_each(rows, example), length, rows, "rows", token_limit, context)


def load_pairs(
    source: Any,
    tokenizer: Any,
    token_limit: int,
    *,
    context: int | None = None,
    rows_limit: int | None = None,
    part: str = "",
) -> Loaded[Pair]:
    """Rows `{"prompt", "chosen", "rejected"}` with optional label, margin, source and difference.

    Args:
        source: see `read_rows`.
        tokenizer: of the reward model, with an EOS token.
        token_limit: longest prompt and response together.
        context: of the reward model, which bounds them too; None bounds nothing.
        rows_limit: rows to read at most, the first ones.
        part: share of the rows, see `part_of`.

    Raises:
        UserError: rows with missing or empty fields, or numbers out of range (file, lines, how many), or every pair is
            too long.
    """
    coder = Coder(tokenizer)

    def said(row: Mapping[str, Any], side: str) -> str:
        return coder.without_frame(row["prompt"], row[side])

    rows, share = part_of(read_pair_rows(source, rows_limit), part)
    rows, equal = different_sides(rows, said)

    def pair(row: Mapping[str, Any]) -> Pair:
        asked = row["prompt"]
        chosen, rejected = (coder.whole(asked, said(row, side)) for side in ("chosen", "rejected"))
        return as_pair(row, chosen, rejected)

    def length(item: Pair) -> int:
        return max(len(item.chosen), len(item.rejected))

    kept = _short_enough(_each(rows, pair), length, rows, "pairs", token_limit, context)
    return replace(kept, message="; ".join(filter(None, (share, equal, kept.message))))


def read_pair_rows(source: Any, rows_limit: int | None = None) -> Rows:
    """Rows `{"prompt", "chosen", "rejected"}` whose fields and numbers can be used.

    Raises:
        UserError: see `load_pairs`.
    """
    rows = read_fields(source, ("prompt", "chosen", "rejected"), rows_limit)
    check_numbers(rows)
    return rows


def _as_written(row: Mapping[str, Any], side: str) -> str:
    return str(row[side])


def different_sides(rows: Rows, said: Callable[[Mapping[str, Any], str], str] = _as_written) -> tuple[Rows, str]:
    """Pairs without those whose two sides are the same text, of which nothing can be learnt; and a sentence on these.

    Args:
        rows: with `chosen` and `rejected`.
        said: what a row's side comes to.

    Raises:
        UserError: no pair is left.
    """
    kept = [i for i, row in enumerate(rows.values) if said(row, "chosen") != said(row, "rejected")]
    left_out = len(rows.values) - len(kept)
    if not kept:
        raise UserError(f"{rows.name}: chosen and rejected are the same text in all {left_out} pairs: give others")
    if not left_out:
        return rows, ""
    message = f"left out {left_out} of {len(rows.values)} pairs of {rows.name}: chosen and rejected are the same text"
    return rows.only(kept), message


def as_pair(row: Mapping[str, Any], chosen: list[int], rejected: list[int]) -> Pair:
    """A row's pair from the tokens of its two texts."""
    return Pair(
        chosen,
        rejected,
        float(_or(row, "label", 1.0)),
        float(_or(row, "margin", 0.0)),
        str(_or(row, "source", "")),
        _or(row, "difference", None),
    )


def _or(row: Mapping[str, Any], name: str, default: Any) -> Any:
    value = row.get(name)
    return default if value is None else value


def _asked(coder: Coder, prompt: Text) -> list[int]:
    """A prompt's tokens: at least one, as a response follows something.

    Raises:
        UserError: the tokenizer makes none of it.
    """
    tokens = coder.prompt_ids(prompt)
    if not tokens:
        raise UserError("the tokenizer makes no token of this prompt: give another, or check the tokenizer's folder")
    return tokens


def _each(rows: Rows, make: Callable[[Mapping[str, Any]], Item]) -> list[Item]:
    """What is made of each row; what can not be is said with the row's place."""
    items = []
    for i, row in enumerate(rows.values):
        try:
            items.append(make(row))
        except UserError as error:
            raise UserError(f"{rows.where([i])}: {error}") from error
    return items


def _short_enough(
    items: list[Item],
    length: Callable[[Item], int],
    rows: Rows,
    what: str,
    token_limit: int,
    context: int | None = None,
) -> Loaded[Item]:
    bound, by_model = (token_limit, False) if context is None or token_limit <= context else (context, True)
    limit = f"the model's context of {bound} tokens" if by_model else f"{bound} tokens"
    lengths = [length(item) for item in items]
    kept = [item for item, n in zip(items, lengths, strict=True) if n <= bound]
    dropped = len(items) - len(kept)
    if not kept:
        remedy = "shorten them, or take a model with a longer context" if by_model else "raise the limit"
        raise UserError(
            f"all {len(items)} {what} of {rows.name} are longer than {limit} (the shortest has {min(lengths)}): "
            f"{remedy}"
        )
    message = (
        f"dropped {dropped} of {len(items)} {what} of {rows.name}: longer than {limit} (the longest has {max(lengths)})"
    )
    return Loaded(kept, dropped, message if dropped else "")
