"""Rows from files, each with the place that the user knows, and whether their fields hold what they must."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from proximo.errors import UserError, nearest
from proximo.language.data.files import given_as, read_file
from proximo.language.data.shapes import TEXTS, is_python, last_role, other_beginning, shaped, unlearnt

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

    def only(self, kept: Sequence[int]) -> "Rows":
        """These rows alone, by their indices."""
        return replace(self, values=[self.values[i] for i in kept], numbers=[self.numbers[i] for i in kept])

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


def read_rows(source: Any, limit: int | None = None) -> Rows:
    """Reads rows.

    Args:
        source: path of a file or folder or name of a data set (see `read_file`), a `Dataset`, dictionaries, or rows
            that were read before.
        limit: rows to read at most, the first ones.

    Raises:
        UserError: nothing is there, a line is no JSON object (which), or there is no row.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, str | Path):
        if "://" in str(source):
            raise UserError(
                f"{source} is an address, and no data are downloaded from one: give the path of a file that you have "
                "downloaded, or a data set of the hub as owner/name"
            )
        read = read_file(Path(source), limit)
        rows = Rows(read.values, read.numbers, str(source), read.unit)
        if setting := given_as(Path(source)):  # a row a line: the user knows the list, and not the file
            rows = replace(rows, name=f"the rows given as {setting}", unit="row")
    else:
        values = [dict(row) for row in islice(source, limit)]
        rows = Rows(values, list(range(1, len(values) + 1)), f"the {type(source).__name__} given")
    if not rows.values:
        raise UserError(f"{rows.name} holds no rows: give a file with at least one")
    return rows


def read_fields(source: Any, names: Sequence[str], limit: int | None = None) -> Rows:
    """Reads rows whose fields `names` are text; a prompt may be chat messages too.

    Rows as other trainers have them are put into that shape, see `shaped`.

    Args:
        source: see `read_rows`.
        names: prompt, and what else has to be there.
        limit: see `read_rows`.

    Raises:
        UserError: see `read_rows`; or a field is missing or empty, or prompts are text in some rows and messages in
            others (file, lines, how many).
    """
    rows = read_rows(source, limit)
    rows = replace(rows, values=[shaped(row, names) for row in rows.values])
    _check_no_python(rows, names)
    for name in names:
        bad = [i for i, row in enumerate(rows.values) if not _is_text(row.get(name), chat=name == "prompt")]
        if bad:
            count = f"{len(bad)} of {len(rows.values)} rows" if len(bad) > 1 else "1 row"
            raise UserError(f"{rows.where(bad)}: {count} {_fault(rows.values[bad[0]], name, names)}")
    _check_alike(rows)
    return rows


def _check_no_python(rows: Rows, names: Sequence[str]) -> None:
    """Messages as Python prints them, in a CSV file of pandas say, would be learnt as a text of brackets and quotes."""
    read = (
        {*names, "messages", "conversations"} if set(names) != {"prompt"} else {"prompt", "messages", "conversations"}
    )
    for name in [name for name in TEXTS if name in read]:
        if bad := [i for i, row in enumerate(rows.values) if is_python(row.get(name))]:
            raise UserError(
                f"{rows.where(bad)}: {name!r} is text of messages as Python prints them, which is no JSON: write the "
                "column with json.dumps, or the rows as .jsonl or .parquet"
            )


def _check_alike(rows: Rows) -> None:
    """Text is read as it is and messages through a template: a file of both would train two kinds of answers."""
    chats = [i for i, row in enumerate(rows.values) if isinstance(row["prompt"], list)]
    if not chats or len(chats) == len(rows.values):
        return
    texts = [i for i in range(len(rows.values)) if i not in set(chats)]
    few, what = (chats, "messages") if len(chats) < len(texts) else (texts, "text")
    raise UserError(
        f"{rows.where(few)}: the prompt is {what} here and {'text' if what == 'messages' else 'messages'} in the other "
        "rows: give all of them alike"
    )


def check_numbers(rows: Rows) -> None:
    """Refuses rows whose label, margin or difference is no number or out of range.

    Raises:
        UserError: names file, lines and how many there are.
    """
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


_CALLED: Mapping[str, Sequence[str]] = {
    "prompt": ("question", "query", "instruction", "problem", "input", "text"),
    "response": ("answer", "output", "solution", "target", "text"),
    "chosen": ("chosen_response", "response_chosen", "preferred"),
    "rejected": ("rejected_response", "response_rejected", "dispreferred"),
}
"""What others call our fields."""


def _other_name(row: Mapping[str, Any], name: str, names: Sequence[str]) -> tuple[str, str]:
    """The column of a row that lacks a field which may be it, and what to do; ("", "") where there is none."""
    if name in row:
        return "", ""
    if alike := nearest(name, row):
        return alike, f"did you mean {alike} to be {name}? Then rename it"
    called = [other for other in _CALLED.get(name, ()) if other in row]
    called = [other for other in called if _is_text(row[other], chat=name == "prompt")]
    if not called:
        return "", ""
    if {"instruction", "input"} <= {*called}:
        return "instruction", "did you mean instruction and input to be prompt? Then write both into one text"
    if called == ["text"] and "response" in names:
        return "text", "did you mean text to be both? Then split it: what is learnt is the response"
    return called[0], f"did you mean {called[0]} to be {name}? Then rename it"


def _fault(row: Mapping[str, Any], name: str, names: Sequence[str]) -> str:
    """What is wrong with a field of a row, and what to do."""
    value = row.get(name)
    if name == "response" and value is None and (last := last_role(row)):
        return (
            f"whose messages end with one of the role {last!r}: what is learnt is the last one if it is the "
            "assistant's, so end them with the answer, and call its role 'assistant'"
        )
    if name in ("chosen", "rejected") and (begins := other_beginning(row)):
        return (
            f"whose chosen and rejected begin with {begins[:60]!r}, and whose 'prompt' is another: correct it, or "
            "leave it out"
        )
    if name != "prompt" and isinstance(value, list):
        answer = value[0] if len(value) == 1 and isinstance(value[0], Mapping) else {}
        if left_out := unlearnt(answer):
            return (
                f"whose {name!r} has {left_out} beside its content, which alone would be learnt: write it into the "
                "content as the model should say it, or remove the field or the rows"
            )
        return (
            f"whose {name!r} is a list, but not of one assistant message (the first has {len(value)}): give the "
            "last answer alone, and what was said before it as 'prompt'"
        )
    if name == "prompt" and isinstance(value, list):
        return (
            f"without a 'prompt' that is text or messages (the first's {_message_fault(value)}): correct or remove them"
        )
    have = ", ".join(row) or "nothing"
    like, way_out = _other_name(row, name, names)
    if name == "prompt" and value is None and not like and "chosen" in row:
        return (
            f"without a 'prompt' that is text or messages (the first has {have}): what chosen and rejected begin with "
            "alike is the prompt, give it apart from them"
        )
    what = f"it is {_kind(value)} in the first" if name in row else f"the first has {have}"
    return f"without a {name!r} that is text ({what}): {way_out or 'fill or remove them'}"


def _kind(value: Any) -> str:
    """What stands where text should."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return "text with half a character (a lone surrogate)" if value.strip() else "blank"
    if isinstance(value, bool | int | float):
        return f"the number {value}" if not isinstance(value, bool) else str(value).lower()
    return "an object" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _message_fault(messages: list[Any]) -> str:
    if not messages:
        return "is an empty list"
    number, message = next((i, m) for i, m in enumerate(messages, 1) if not (isinstance(m, Mapping) and _is_message(m)))
    if not isinstance(message, Mapping):
        return f"message {number} is no object with role and content"
    if not _is_valid(message.get("role")):
        return f"message {number} has no role"
    content = message.get("content")
    what = "parts that are not all text" if isinstance(content, list) else _kind(content)
    return f"message {number} ({message['role']}) has content that is {what}"


def _is_text(value: Any, *, chat: bool) -> bool:
    if chat and isinstance(value, list):
        return bool(value) and all(isinstance(m, Mapping) and _is_message(m) for m in value)
    return _is_valid(value) and bool(value.strip())


def _is_message(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    called = content is None and bool(message.get("tool_calls"))  # what a call of tools says beside them may be nothing
    return _is_valid(message.get("role")) and (called or _is_valid(content))


def _is_valid(text: Any) -> bool:
    """JSON can write half a character (a lone surrogate), which is no text that a tokenizer takes."""
    if not isinstance(text, str):
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
