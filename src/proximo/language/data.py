"""Rows of text -> rows of tokens: what is trained is what is tokenised here, once.

Rows come from JSONL or Parquet files, a saved `datasets` folder, a `Dataset` object or a list of dictionaries. A prompt
is text or a list of chat messages `{"role", "content"}`; a response is text.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from proximo.language.models import check_eos
from proximo.language.rollout import Prompt
from proximo.runs.errors import UserError, nearest
from proximo.runs.files import parse_json, user_error

Item = TypeVar("Item")
Text = str | list[dict[str, str]]
"""A prompt: text, or chat messages."""

_SHOWN = 5  # row numbers in a message


@dataclass(frozen=True)
class Rows:
    """Rows as read, with the place that the user knows."""

    values: list[dict[str, Any]]
    numbers: list[int]
    """Per row, its line in a JSONL file or its place (from 1) elsewhere."""
    name: str
    unit: str = "row"
    """line or row."""

    def where(self, bad: Sequence[int]) -> str:
        """`FILE, line 3, 7 and 9` for indices of rows; at most five are named."""
        numbers = [str(self.numbers[i]) for i in bad]
        some, rest = numbers[:_SHOWN], len(numbers) - _SHOWN
        text = (
            ", ".join(some) + f" and {rest} more"
            if rest > 0
            else " and ".join(filter(None, [", ".join(some[:-1]), some[-1]]))
        )
        return f"{self.name}, {self.unit} {text}"


@dataclass(frozen=True)
class Loaded(Generic[Item]):
    """What was read, and what was not."""

    items: list[Item]
    dropped: int
    """Over-long rows left out."""
    message: str
    """One sentence on the dropped rows; empty when there are none."""


@dataclass(frozen=True)
class Example:
    """A prompt and the response to learn, ending with EOS; prompt + response is what the model reads."""

    prompt: list[int]
    response: list[int]


@dataclass(frozen=True)
class Pair:
    """Two responses to one prompt, each as prompt + response + EOS."""

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


def read_rows(source: Any, limit: int | None = None) -> Rows:
    """Reads rows.

    Args:
        source: path of a `.jsonl`, `.parquet` file or of a saved `datasets` folder, a `Dataset`, or dictionaries.
        limit: rows to read at most, the first ones.

    Raises:
        UserError: nothing is there, a line is no JSON object (which), or there is no row.
    """
    if isinstance(source, str | Path):
        rows = _read_path(Path(source), limit)
    else:
        values = [dict(row) for row in islice(source, limit)]
        rows = Rows(values, list(range(1, len(values) + 1)), f"the {type(source).__name__} given")
    if not rows.values:
        raise UserError(f"{rows.name} holds no rows: give a file with at least one")
    return rows


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
    rows = read_rows(source, rows_limit)
    check_fields(rows, ("prompt",))
    coder = Coder(tokenizer)
    items = []
    for row in rows.values:
        text = coder.prompt_text(row["prompt"])
        columns = {name: value for name, value in row.items() if name != "prompt"}
        items.append(Prompt(coder.prompt_ids(row["prompt"]), text, columns, row["prompt"]))
    return _short_enough(items, [len(item.tokens) for item in items], rows, token_limit, "prompts")


def load_examples(source: Any, tokenizer: Any, token_limit: int, *, rows_limit: int | None = None) -> Loaded[Example]:
    """Rows `{"prompt", "response"}` for supervised fine-tuning.

    Args:
        source: see `read_rows`.
        tokenizer: with an EOS token.
        token_limit: longest prompt and response together.
        rows_limit: rows to read at most, the first ones.

    Raises:
        UserError: rows with missing or empty fields (file, lines, how many), or every row is too long.
    """
    rows = read_rows(source, rows_limit)
    check_fields(rows, ("prompt", "response"))
    coder = Coder(tokenizer)
    items = [
        Example(coder.prompt_ids(r["prompt"]), coder.response_ids(r["prompt"], r["response"])) for r in rows.values
    ]
    lengths = [len(item.prompt) + len(item.response) for item in items]
    return _short_enough(items, lengths, rows, token_limit, "rows")


def load_pairs(source: Any, tokenizer: Any, token_limit: int, *, rows_limit: int | None = None) -> Loaded[Pair]:
    """Rows `{"prompt", "chosen", "rejected"}` with optional label, margin, source and difference.

    Args:
        source: see `read_rows`.
        tokenizer: of the reward model, with an EOS token.
        token_limit: longest prompt and response together.
        rows_limit: rows to read at most, the first ones.

    Raises:
        UserError: rows with missing or empty fields, or numbers out of range (file, lines, how many), or every pair is
            too long.
    """
    rows = read_rows(source, rows_limit)
    check_fields(rows, ("prompt", "chosen", "rejected"))
    _check_numbers(rows)
    coder = Coder(tokenizer)
    items = [
        Pair(
            coder.whole(row["prompt"], row["chosen"]),
            coder.whole(row["prompt"], row["rejected"]),
            float(_or(row, "label", 1.0)),
            float(_or(row, "margin", 0.0)),
            str(_or(row, "source", "")),
            _or(row, "difference", None),
        )
        for row in rows.values
    ]
    lengths = [max(len(item.chosen), len(item.rejected)) for item in items]
    return _short_enough(items, lengths, rows, token_limit, "pairs")


class Coder:
    """Text to tokens, each text once.

    Args:
        tokenizer: with an EOS token.
    """

    def __init__(self, tokenizer: Any) -> None:
        check_eos(tokenizer)
        self.tokenizer = tokenizer
        self._known: dict[tuple[str, bool], list[int]] = {}

    def prompt_text(self, prompt: Text) -> str:
        """The prompt as the model reads it; chat messages through the tokenizer's template."""
        return prompt if isinstance(prompt, str) else self._render(prompt, answered=False)

    def prompt_ids(self, prompt: Text) -> list[int]:
        """Tokens of a prompt, with the tokenizer's own start (BOS) and without an end."""
        # A template writes its own special tokens.
        ids = self._encode(self.prompt_text(prompt), special=isinstance(prompt, str))
        eos = self.tokenizer.eos_token_id
        ends_itself = (
            isinstance(prompt, str) and ids and ids[-1] == eos and not prompt.endswith(self.tokenizer.eos_token)
        )
        return ids[:-1] if ends_itself else list(ids)

    def response_ids(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Tokens of a response, with EOS at the end if it is finished."""
        eos = self.tokenizer.eos_token_id
        if isinstance(prompt, str):
            ids = list(self._encode(response, special=False))
        else:
            whole = self._render([*prompt, {"role": "assistant", "content": response}], answered=True)
            before = self.prompt_text(prompt)
            if not whole.startswith(before):
                raise UserError(
                    "the tokenizer's chat template changes the prompt when an answer follows, so prompt and response "
                    "can not be told apart: give prompts as text"
                )
            ids = list(self._encode(whole[len(before) :], special=False))
            if eos in ids:  # templates put a line break behind it
                ids = ids[: len(ids) - 1 - ids[::-1].index(eos)]
        if not finished:
            return ids
        return ids if ids and ids[-1] == eos else [*ids, eos]

    def whole(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Tokens of prompt and response together."""
        return self.prompt_ids(prompt) + self.response_ids(prompt, response, finished=finished)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        key = (text, special)
        if key not in self._known:
            # Without the warning about the length that the model was made for: limits are checked by us.
            self._known[key] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return self._known[key]

    def _render(self, messages: list[dict[str, str]], *, answered: bool) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(
                "the prompts are chat messages, but the tokenizer has no chat template: give prompts as text, or a "
                "tokenizer with tokenizer.chat_template"
            )
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered))


def check_fields(rows: Rows, names: Iterable[str]) -> None:
    """Refuses rows in which a field is missing or empty.

    Raises:
        UserError: names file, lines and how many there are.
    """
    for name in names:
        bad = [i for i, row in enumerate(rows.values) if not _is_text(row.get(name), chat=name == "prompt")]
        if not bad:
            continue
        count = f"{len(bad)} of {len(rows.values)} rows" if len(bad) > 1 else "1 row"
        have = ", ".join(rows.values[bad[0]]) or "nothing"
        like = "" if name in rows.values[bad[0]] else nearest(name, rows.values[bad[0]])
        hint = f"; did you mean {like} to be {name}?" if like else ""
        raise UserError(
            f"{rows.where(bad)}: {count} without a {name!r} that is text (the first has {have}){hint}: "
            "fill or remove them"
        )


def _check_numbers(rows: Rows) -> None:
    rules = {
        "label": (lambda x: 0.0 <= x <= 1.0, "a share in [0, 1]"),
        "margin": (lambda x: -1e6 < x < 1e6, "a finite number"),
        "difference": (lambda x: -1e6 < x < 1e6, "a finite number"),
    }
    for name, (holds, bound) in rules.items():
        bad = [
            i
            for i, row in enumerate(rows.values)
            if (x := row.get(name)) is not None and not (isinstance(x, int | float) and holds(x))
        ]
        if bad:
            raise UserError(
                f"{rows.where(bad)}: {name} = {rows.values[bad[0]][name]!r} must be {bound} ({len(bad)} such rows)"
            )


def _is_text(value: Any, *, chat: bool) -> bool:
    if chat and isinstance(value, list):
        return bool(value) and all(isinstance(m, Mapping) and _is_message(m) for m in value)
    return _is_valid(value) and bool(value.strip())


def _is_message(message: Mapping[str, Any]) -> bool:
    return _is_valid(message.get("role")) and _is_valid(message.get("content"))


def _is_valid(text: Any) -> bool:
    """JSON can write half a character (a lone surrogate), which is no text that a tokenizer takes."""
    if not isinstance(text, str):
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _or(row: Mapping[str, Any], name: str, default: Any) -> Any:
    value = row.get(name)
    return default if value is None else value


def _short_enough(items: list[Item], lengths: list[int], rows: Rows, limit: int, what: str) -> Loaded[Item]:
    kept = [item for item, length in zip(items, lengths, strict=True) if length <= limit]
    dropped = len(items) - len(kept)
    if not kept:
        raise UserError(
            f"all {len(items)} {what} of {rows.name} are longer than {limit} tokens (the shortest has {min(lengths)}): "
            "raise the limit"
        )
    message = (
        f"dropped {dropped} of {len(items)} {what} of {rows.name}: longer than {limit} tokens (the longest has "
        f"{max(lengths)})"
    )
    return Loaded(kept, dropped, message if dropped else "")


def _read_path(path: Path, limit: int | None) -> Rows:
    if path.is_dir():
        return _read_saved(path, limit)
    if path.suffix == ".parquet":
        return _read_parquet(path, limit)
    if path.suffix in (".jsonl", ".json", ".ndjson"):
        return _read_jsonl(path, limit)
    raise UserError(f"cannot tell what {path} is: give a .jsonl or .parquet file, or a folder saved by datasets")


def _read_jsonl(path: Path, limit: int | None) -> Rows:
    rows = Rows([], [], str(path), "line")
    try:
        with open(path, encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if limit is not None and len(rows.values) >= limit:
                    break
                if line.strip():
                    rows.values.append(_parsed(line, path, number))
                    rows.numbers.append(number)
    except OSError as error:
        raise user_error(error, path, "reading") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert it") from error
    return rows


def _parsed(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number} is not JSON ({error}): correct or remove it") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number} is not a JSON object: write {{...}} with the fields' names")
    return row


def _read_parquet(path: Path, limit: int | None) -> Rows:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {path} needs the package pyarrow: pip install pyarrow") from error
    try:
        table = pyarrow.parquet.read_table(path)
    except OSError as error:
        raise user_error(error, path, "reading") from error
    except pyarrow.ArrowException as error:
        raise UserError(f"{path} is not a Parquet file ({error}): check it") from error
    values = (table if limit is None else table.slice(0, limit)).to_pylist()
    return Rows(values, list(range(1, len(values) + 1)), str(path))


def _read_saved(path: Path, limit: int | None) -> Rows:
    try:
        from datasets import Dataset, load_from_disk
    except ImportError as error:
        raise UserError(f"reading {path} needs the package datasets: pip install datasets") from error
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no folder saved by datasets ({error}): check the path") from error
    if not isinstance(data, Dataset):
        raise UserError(f"{path} holds several splits ({', '.join(data)}): give the folder of one of them")
    values = [dict(row) for row in islice(data, limit)]
    return Rows(values, list(range(1, len(values) + 1)), str(path))
