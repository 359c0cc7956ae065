"""Rows from files: JSON lines, JSON, CSV and Parquet, also compressed or in shards, saved `datasets`, and the hub."""

import csv
import gzip
import io
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from proximo.errors import UserError
from proximo.language.data.shapes import TEXTS
from proximo.runs.plugins import on_one_line
from proximo.runs.storage.files import parse_json, read_error

_KINDS = "a .jsonl, .json, .csv or .parquet file (.jsonl, .json and .csv also as .gz), a folder of such files of one "
_KINDS += "kind or one saved by datasets, or a data set of the hub as owner/name"
_NUMBERS = ("label", "margin", "difference")
"""Columns of pairs that are numbers: a CSV file has text only."""
_LINES = (".jsonl", ".ndjson")
_HUB = re.compile(r"[\w.-]+/[\w.-]+(:\w[\w.-]*)?")
_SHARD = re.compile(r"(.*?)-\d+(-of-\d+)?")
_SPLITS = ("train", "training", "test", "testing", "validation", "valid", "val", "dev", "eval", "evaluation", "heldout")
"""What a file's or folder's name begins with where it is of one part of a data set."""


GIVEN = "given"
"""Folder beside runs for what was given from Python."""
_GIVEN = re.compile(r"(\w+)-[0-9a-f]{16}\.jsonl")


@dataclass(frozen=True)
class Read:
    """Rows of a file, and what tells the user which is which."""

    values: list[dict[str, Any]]
    numbers: list[int]
    """Per row, its line or its place (from 1)."""
    unit: str = "row"
    """line or row."""


def is_hub_name(name: str) -> bool:
    """Whether a name that is no file can be a data set of the hub: `owner/name`, `owner/name:split`."""
    return bool(_HUB.fullmatch(name)) and not _suffixes(Path(name.partition(":")[0]))


def is_data_name(name: str) -> bool:
    """Whether a name ends as those of files of rows do, or of text."""
    return bool(_suffixes(Path(name))) or name.lower().removesuffix(".gz").endswith(".txt")


def given_as(path: Path) -> str:
    """The setting that rows from Python were given as, where a file is one that holds them; "" of any other."""
    found = _GIVEN.fullmatch(path.name) if path.parent.name == GIVEN else None
    return found[1] if found else ""


def read_file(path: Path, limit: int | None) -> Read:
    """Reads rows.

    Args:
        path: of a file or folder, or the name of a data set of the hub.
        limit: rows to read at most, the first ones.

    Raises:
        UserError: nothing is there, it is of no known kind, or it is damaged (where).
    """
    if path.is_dir():
        return _read_folder(path, limit)
    if not path.exists() and is_hub_name(str(path)):
        return _read_hub(str(path), limit)
    suffixes = _suffixes(path)
    if suffixes == [".parquet"]:
        return _read_parquet([path], limit)
    if suffixes and suffixes[-1] in (*_LINES, ".json", ".csv"):
        return _read_text(path, suffixes[-1], limit)
    if not path.exists():
        raise UserError(f"there is no {path}: give {_KINDS}")
    raise UserError(f"cannot tell what {path} is: give {_KINDS}")


def _suffixes(path: Path) -> list[str]:
    """The known endings of a name, in small letters: of the compression, then of the file; [] if it has none."""
    endings = [ending.lower() for ending in path.suffixes[-2:]]
    if endings[-1:] == [".gz"] and endings[:1] != [".gz"]:
        return [".gz", endings[0]]
    return endings[-1:] if endings[-1:] and endings[-1] in (*_LINES, ".json", ".csv", ".parquet") else []


def _read_text(path: Path, kind: str, limit: int | None) -> Read:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    try:
        with opened(path, "rb") as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
            if kind == ".csv":
                return _from_csv(file, path, limit)
            if kind == ".json" and (whole := _whole_json(file, path, limit)):
                return whole
            return _from_lines(file, path, limit)
    except (gzip.BadGzipFile, EOFError) as error:
        raise UserError(f"{path} is not a whole gzip file ({error}): check it") from error
    except OSError as error:
        raise read_error(error, path) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): convert it") from error


def _from_lines(file: io.TextIOWrapper, path: Path, limit: int | None) -> Read:
    read = Read([], [], "line")
    for number, line in enumerate(_lines(file), 1):
        if limit is not None and len(read.values) >= limit:
            break
        if line.strip():
            read.values.append(_parsed(line, path, number))
            read.numbers.append(number)
    return read


def _lines(file: io.TextIOWrapper) -> Iterator[str]:
    r"""Lines that end with \n, \r\n or \r, as text files have them."""
    file.reconfigure(newline=None)
    return iter(file)


def _parsed(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise UserError(f"{path}, line {number} is not JSON ({error}): correct or remove it") from error
    if not isinstance(row, dict):
        raise UserError(f"{path}, line {number} is not a JSON object: write {{...}} with the fields' names")
    return row


def _whole_json(file: io.TextIOWrapper, path: Path, limit: int | None) -> Read | None:
    """Rows of a file that is one array of objects, or one object around it; None if it holds lines of JSON."""
    text = file.read()
    file.seek(0)
    try:
        value = parse_json(text)
    except ValueError as error:
        if not text.lstrip().startswith("["):
            return None
        raise UserError(f"{path} is not JSON ({error}): correct it") from error
    if isinstance(value, dict):
        lists = [x for x in value.values() if isinstance(x, list) and x and all(isinstance(row, dict) for row in x)]
        value = lists[0] if len(lists) == 1 and not set(value) & set(TEXTS) else [value]  # else it is a row itself
    if not isinstance(value, list):
        return None
    for number, row in enumerate(value, 1):
        if not isinstance(row, dict):
            raise UserError(f"{path}, row {number} is not a JSON object: write {{...}} with the fields' names")
    return _numbered(value[:limit])


def _from_csv(file: io.TextIOWrapper, path: Path, limit: int | None) -> Read:
    csv.field_size_limit(1 << 30)
    reader = csv.DictReader(file, strict=True)
    try:
        values: list[dict[str, Any]] = []
        for row in islice(reader, limit):
            if None in row or None in row.values():
                raise UserError(
                    f"{path}, line {reader.line_num} has another number of columns than its first line: correct it"
                )
            values.append({name: _number(x) if name in _NUMBERS else x for name, x in row.items()})
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num} is not CSV ({error}): correct it") from error
    return _numbered(values)


def _number(text: str) -> float | str | None:
    """What stands in a column of numbers; None where nothing does, text where it is no number."""
    if not text.strip():
        return None
    with suppress(ValueError):
        return float(text)
    return text


def _read_folder(path: Path, limit: int | None) -> Read:
    """Shards, in the folder or in the only one in it that holds any, or what `datasets` saved."""
    if any((path / name).is_file() for name in ("state.json", "dataset_dict.json", "dataset_info.json")):
        return _read_saved(path, limit)
    if any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise UserError(f"{path} is the folder of a model, and holds no rows: give {_KINDS}")
    shards = _shards(path) or _shards(path / "data") or _nested_shards(path)
    if not shards:
        raise UserError(
            f"{path} holds no file of rows (.jsonl, .json, .csv or .parquet), and is no folder saved by datasets: "
            "check the path"
        )
    splits = sorted({found[1] if (found := _SHARD.fullmatch(_stem(file))) else _stem(file) for file in shards})
    if len(splits) > 1 and (all(_SHARD.fullmatch(_stem(file)) for file in shards) or len({*map(_split, splits)}) > 1):
        raise UserError(
            f"{path} holds several splits ({', '.join(splits)}): put the shards of one into a folder, or give a file"
        )
    if _suffixes(shards[0]) == [".parquet"]:
        return _read_parquet(shards, limit)
    values: list[dict[str, Any]] = []
    for file in shards:
        left = None if limit is None else limit - len(values)
        values += [] if left == 0 else _read_text(file, _suffixes(file)[-1], left).values
    return _numbered(values)


def _shards(path: Path) -> list[Path]:
    """The files of rows in a folder: of Parquet, or else all the others.

    Raises:
        UserError: the others are of several kinds, so that one may be a copy of another.
    """
    files = sorted(file for file in path.glob("[!._]*") if file.is_file() and file.name != "dataset_infos.json")
    parquet = [file for file in files if _suffixes(file) == [".parquet"]]
    files = [file for file in files if _suffixes(file)[-1:] in ([".json"], [".csv"], *([x] for x in _LINES))]
    kinds = sorted({".jsonl" if (kind := _suffixes(file)[-1]) in _LINES else kind for file in files})
    if len(kinds) > 1 and not parquet:
        raise UserError(f"{path} holds files of several kinds ({', '.join(kinds)}): give one file, or keep one kind")
    return parquet or files


def _nested_shards(path: Path) -> list[Path]:
    """The files of rows in the only folder within a folder that holds any.

    Raises:
        UserError: several do.
    """
    folders = {
        below.name: found for below in sorted(path.glob("[!._]*/")) if below.is_dir() and (found := _shards(below))
    }
    if len(folders) > 1:
        raise UserError(f"{path} holds several folders of rows ({', '.join(folders)}): give one of them")
    return next(iter(folders.values()), [])


def _stem(file: Path) -> str:
    return file.name.partition(".")[0]


def _split(name: str) -> str:
    """The split that a file's name begins with; "" if with none."""
    word = re.split(r"[-_ ]|\d", name.lower().replace("held_out", "heldout"))[0]
    return word if word in _SPLITS else ""


def _read_parquet(files: list[Path], limit: int | None) -> Read:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(f"reading {files[0]} needs the package pyarrow: pip install pyarrow") from error
    values: list[dict[str, Any]] = []
    for file in files:
        if limit is not None and len(values) >= limit:
            break
        try:
            table = pyarrow.parquet.ParquetFile(file).read()
        except OSError as error:
            raise read_error(error, file) from error
        except pyarrow.ArrowException as error:
            raise UserError(f"{file} is not a Parquet file ({error}): check it") from error
        values += (table if limit is None else table.slice(0, limit - len(values))).to_pylist()
    return _numbered(values)


def _read_saved(path: Path, limit: int | None) -> Read:
    datasets = _datasets(path)
    try:
        data = datasets.load_from_disk(str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no folder saved by datasets ({error}): check the path") from error
    if not isinstance(data, datasets.Dataset):
        raise UserError(f"{path} holds several splits ({', '.join(data)}): give the folder of one of them")
    return _numbered([dict(row) for row in islice(data, limit)])


def _read_hub(name: str, limit: int | None) -> Read:
    """The split `train` of a data set, or that behind a colon. Data sets that run code of their own do not load."""
    datasets = _datasets(Path(name))
    place, _, split = name.partition(":")
    try:
        data = datasets.load_dataset(place, split=split or "train")
    except Exception as error:  # of many kinds: no network, no such name, no such split, one that needs a configuration
        raise UserError(
            f"there is no file or folder {name}, and as a data set of the hub it can not be loaded "
            f"({on_one_line(error)}): check the name, or give a split as owner/name:split"
        ) from error
    return _numbered([dict(row) for row in islice(data, limit)])


def _datasets(path: Path) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise UserError(f"reading {path} needs the package datasets: pip install datasets") from error
    return datasets


def _numbered(values: list[dict[str, Any]]) -> Read:
    return Read(values, list(range(1, len(values) + 1)))
