"""Rows from files, each with the place that the user knows, and whether their fields hold what they must."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from proximo.runs.errors import UserError, nearest
from proximo.runs.files import parse_json, read_error

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


def read_rows(source: Any, limit: int | None = None) -> Rows:
    """Reads rows.

    Args:
        source: path of a `.jsonl`, `.parquet` file or of a saved `datasets` folder, a `Dataset`, dictionaries, or rows
            that were read before.
        limit: rows to read at most, the first ones.

    Raises:
        UserError: nothing is there, a line is no JSON object (which), or there is no row.
    """
    if isinstance(source, Rows):
        return source
    if isinstance(source, str | Path):
        rows = _read_path(Path(source), limit)
    else:
        values = [dict(row) for row in islice(source, limit)]
        rows = Rows(values, list(range(1, len(values) + 1)), f"the {type(source).__name__} given")
    if not rows.values:
        raise UserError(f"{rows.name} holds no rows: give a file with at least one")
    return rows


def read_fields(source: Any, names: Sequence[str], limit: int | None = None) -> Rows:
    """Reads rows whose fields `names` are text; a prompt may be chat messages too.

    Rows as other trainers have them are put into that shape: a list of one assistant message becomes its text, and
    what two whole conversations `chosen` and `rejected` begin with becomes the prompt where there is none.

    Args:
        source: see `read_rows`.
        names: prompt, and what else has to be there.
        limit: see `read_rows`.

    Raises:
        UserError: see `read_rows`; or a field is missing or empty (file, lines, how many).
    """
    rows = read_rows(source, limit)
    rows = replace(rows, values=[_with_texts(_with_prompt(row), names) for row in rows.values])
    for name in names:
        bad = [i for i, row in enumerate(rows.values) if not _is_text(row.get(name), chat=name == "prompt")]
        if bad:
            count = f"{len(bad)} of {len(rows.values)} rows" if len(bad) > 1 else "1 row"
            raise UserError(f"{rows.where(bad)}: {count} {_fault(rows.values[bad[0]], name)}")
    return rows


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


def _with_prompt(row: dict[str, Any]) -> dict[str, Any]:
    """A pair of whole conversations without a prompt, split where they part; any other row as it is."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if row.get("prompt") is not None or not (isinstance(chosen, list) and isinstance(rejected, list)):
        return row
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False)))
    split = {"prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}
    return row | split if shared else row


def _with_texts(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The row with responses that are one assistant message as text."""
    return row | {name: row[name][0]["content"] for name in names if name != "prompt" and _is_answer(row.get(name))}


def _is_answer(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)):
        return False
    return value[0].get("role") == "assistant" and isinstance(value[0].get("content"), str)


def _fault(row: Mapping[str, Any], name: str) -> str:
    """What is wrong with a field of a row, and what to do."""
    if name != "prompt" and isinstance(row.get(name), list):
        return (
            f"whose {name!r} is a list, but not of one assistant message (the first has {len(row[name])}): give the "
            "last answer alone, and what was said before it as 'prompt'"
        )
    have = ", ".join(row) or "nothing"
    like = "" if name in row else nearest(name, row)
    hint = f"; did you mean {like} to be {name}?" if like else ""
    if name == "prompt" and row.get("prompt") is None and not like and "chosen" in row:
        return (
            f"without a 'prompt' that is text or messages (the first has {have}): what chosen and rejected begin with "
            "alike is the prompt, give it apart from them"
        )
    return f"without a {name!r} that is text (the first has {have}){hint}: fill or remove them"


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
        raise read_error(error, path) from error
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
        raise read_error(error, path) from error
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
