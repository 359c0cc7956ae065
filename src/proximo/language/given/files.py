"""Data and models that are given from Python, kept as files beside the run: what reads a run later reads them too.

A file's name holds the digest of what it holds, so that the same rows or weights are the same setting in `config.toml`,
and others are another one.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from proximo.errors import UserError
from proximo.language.compute.own_code import own_parts
from proximo.language.data.files import GIVEN, is_data_name
from proximo.language.data.rows import Rows, read_fields
from proximo.language.models.folders import check_savable, save_folder
from proximo.language.models.loading import load_text_tokenizer
from proximo.runs.config.toml import read_toml
from proximo.runs.session.opening import Call
from proximo.runs.storage.files import parse_json, user_error, write_atomically
from proximo.runs.storage.folder import RunFolder

FOLDER = GIVEN
"""Beside the run's folder: several runs on the same rows or model share it."""

_NOT_THE_MODEL = ("architectures", "dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash")
"""Of a model's settings, what saving it sets, and where it came from."""


@dataclass(frozen=True)
class _Kept:
    """Something given, and the file or folder that holds it."""

    path: Path
    other: str
    """What another one is, as in "other prompts"."""
    about: str
    write: Callable[[], None]
    """Puts it there, if it is not."""


class Given:
    """All that is given from Python for one run.

    Args:
        run: folder of the run.
    """

    def __init__(self, run: Path) -> None:
        self._folder = run.absolute().parent.resolve() / FOLDER
        self._kept: dict[str, _Kept] = {}

    def rows(self, setting: str, source: Any, fields: Sequence[str], argument: str = "") -> str:
        """The value of a setting that names rows.

        Args:
            setting: its name.
            source: path or name, which stays as it is; or dictionaries, texts, chat messages or a `datasets.Dataset`.
            fields: that each row must have.
            argument: what it is given as, if not by the setting's name.

        Raises:
            UserError: there is no row, or one that can not be used or stored: which, and why.
        """
        if source is None or isinstance(source, str | PathLike):
            return os.fspath(source or "")
        argument = argument or setting
        values = [_stored(row, i, argument) for i, row in enumerate(as_rows(source, argument, fields), 1)]
        name = f"the {type(source).__name__} given as {argument}"
        if not values:
            raise UserError(f"{name} holds no rows: give at least one")
        read_fields(Rows([parse_json(line) for line in values], list(range(1, len(values) + 1)), name), fields)
        content = "".join(line + "\n" for line in values).encode()
        path = self._folder / f"{setting}-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"

        def write() -> None:
            if not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)

        self._kept[setting] = _Kept(path, f"other {argument}", f"{len(values):,} rows", write)
        return str(path)

    def model(self, setting: str, model: Any, tokenizer: Any) -> str:
        """The value of a setting that names a model.

        Args:
            setting: its name.
            model: folder or name, which stays as it is; a run, for what it has trained; or a model of `transformers`,
                which is not changed.
            tokenizer: of a model, or a folder or name that has it; None where a folder has its own.

        Raises:
            UserError: a tokenizer is missing or too much, or the model can not be stored.
        """
        if isinstance(model, str | PathLike):
            if tokenizer is not None:
                raise UserError(
                    f"tokenizer= belongs to a model that is given as an object: {os.fspath(model)} has its own"
                )
            return model_folder(model)
        _check_model(model)
        if tokenizer is None:
            raise UserError(f"the {type(model).__name__} that is given needs its tokenizer: give tokenizer=")
        if isinstance(tokenizer, str | PathLike):
            tokenizer = load_text_tokenizer(model_folder(tokenizer))
        digest = _digest_of_model(model, tokenizer)
        path = self._folder / f"model-{digest}"

        def write() -> None:
            if (path / "config.json").is_file():  # it was put there whole
                return
            if _digest_of_model(model, tokenizer) != digest:
                raise UserError(
                    f"the {type(model).__name__} or its tokenizer was changed since it was given: give it as it is now "
                    "to a new call"
                )
            check_savable(model, tokenizer)
            _save_whole(path, model, tokenizer)

        self._kept[setting] = _Kept(path, "another model", type(model).__name__, write)
        return str(path)

    def check(self, folder: RunFolder, call: Call) -> None:
        """Refuse a run that was begun with other rows or another model than those given now.

        Args:
            folder: of the run.
            call: how it begins.

        Raises:
            UserError: names the setting, and the ways on.
        """
        if call.fresh or call.allow_change or not folder.exists:
            return
        there = read_toml(folder.config)
        for setting, kept in self._kept.items():
            before = str(there.get(setting, ""))
            if Path(before).name != kept.path.name:
                raise UserError(
                    f"{folder.path} holds a run with {kept.other}: {before or 'none'} there, and the "
                    f"{kept.about} given now would be {kept.path.name}; give the same as before, choose another folder "
                    "with run=, or start over with fresh=True"
                )

    @contextmanager
    def stored(self, folder: RunFolder) -> Iterator[None]:
        """Write what is not there yet; where what follows fails before there is a run, it goes again.

        Args:
            folder: of the run.

        Raises:
            UserError: the disk refuses, or the model can not be stored.
        """
        missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
        new = [kept.path for kept in self._kept.values() if not kept.path.exists()]
        try:
            for kept in self._kept.values():
                _write(kept)
            yield
        except BaseException:
            if not folder.exists:
                _remove(new, missing)
            raise


def as_rows(source: Any, setting: str, fields: Sequence[str]) -> list[Mapping[str, Any]]:
    """Rows that are given, as mappings.

    Args:
        source: dictionaries, a `datasets.Dataset` or a table of pandas, polars or Arrow; where prompts alone are asked
            for, also texts and chat messages.
        setting: what they are given as, for messages.
        fields: that each row must have.

    Raises:
        UserError: it is something else.
    """
    source = _without_table(source)
    if isinstance(source, set | frozenset):
        raise UserError(f"{setting} can not be a {type(source).__name__}, which has no order: give a list")
    if isinstance(source, Mapping | Iterator) or not hasattr(source, "__iter__"):
        kind = type(source).__name__
        hint = "one of its splits" if kind.endswith("DatasetDict") else "a list of dictionaries, a Dataset or a file"
        raise UserError(f"{setting} can not be a {kind}: give {hint}")
    source = list(source)
    _check_no_files(source, setting)
    rows: list[Mapping[str, Any]] = []
    for number, row in enumerate(source, 1):
        if tuple(fields) == ("prompt",) and isinstance(row, str | list):
            row = {"prompt": row}
        if not isinstance(row, Mapping):
            raise UserError(
                f"row {number} of {setting} is a {type(row).__name__}: give dictionaries with {', '.join(fields)}"
            )
        rows.append(row)
    return rows


def _check_no_files(rows: Sequence[Any], setting: str) -> None:
    """Refuse a list of files, whose names would be read as prompts.

    Raises:
        UserError: all are names of files.
    """
    if rows and all(isinstance(row, PathLike) or (isinstance(row, str) and _is_file(row)) for row in rows):
        names = [os.fspath(row) for row in rows]
        some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise UserError(
            f"{setting} is a list of names of files ({some}), which are not read as rows: give one file, or a folder "
            "that holds them"
        )


def _is_file(text: str) -> bool:
    """Whether a text is the name of a file of rows: it is there, or is one word with such an ending."""
    return os.path.isfile(text) or (not re.search(r"\s", text) and is_data_name(text))


def model_folder(model: str | PathLike[str]) -> str:
    """The folder or name of a model: of a PPO run, its policy's."""
    policy = getattr(model, "policy", None)
    return os.fspath(policy if isinstance(policy, PathLike) else model)


def _without_table(source: Any) -> Any:
    """A table as its rows: iterated itself, it gives its columns. What is missing in one of pandas is None."""
    if not hasattr(type(source), "columns"):
        return source
    if hasattr(source, "to_pylist"):  # Arrow
        return source.to_pylist()
    if hasattr(source, "to_dicts"):  # polars
        return source.to_dicts()
    if hasattr(source, "notna"):
        return source.astype(object).where(source.notna(), None).to_dict("records")
    return source


def _check_model(model: Any) -> None:
    """Refuse what no folder of `transformers` holds as it is.

    Raises:
        UserError: it is no model of `transformers`, has adapters, or computes by code that is not stored with it.
    """
    from transformers import PreTrainedModel
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING

    kind = type(model)
    if isinstance(model, torch.nn.Module) and hasattr(model, "peft_config"):
        raise UserError("a model with adapters can not be given: give model.merge_and_unload(), or its folder")
    if not isinstance(model, PreTrainedModel):
        raise UserError(f"a model is a folder, a name or a model of transformers, and not a {kind.__name__}")
    known: list[Any] = [
        mapping.get(type(model.config), None) for mapping in (MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_MAPPING)
    ]
    with_its_code = getattr(model.config, "auto_map", None) or kind._auto_class is not None
    if with_its_code:
        return
    if not kind.__module__.startswith("transformers.") and kind not in known:
        raise UserError(
            f"the class {kind.__name__} is not of transformers, so that its folder would load as another one: give a "
            f"model of transformers' own class, or {kind.__name__} stored with its code (register_for_auto_class) and "
            "trust_remote_code=True"
        )
    if own := next(own_parts(model), ""):
        raise UserError(
            f"the {kind.__name__} that is given computes by code of your own ({own}), which its folder would not hold: "
            "give the model without it"
        )


def _save_whole(path: Path, model: Any, tokenizer: Any) -> None:
    """Save a model under another name first, so that a folder of this one is whole."""
    part, half = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("part", "half"))
    try:
        save_folder(part, model, tokenizer)
        if path.is_dir() and not (path / "config.json").is_file():
            with suppress(FileNotFoundError):  # another process has just done the same
                path.rename(half)
        try:
            part.rename(path)
        except OSError:
            if not (path / "config.json").is_file():
                raise
            # Another process has put the same model there; it may be read by now.
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(half, ignore_errors=True)


def _write(kept: _Kept) -> None:
    try:
        kept.path.parent.mkdir(parents=True, exist_ok=True)
        kept.write()
    except OSError as error:
        raise user_error(error, kept.path) from error


def _remove(files: Sequence[Path], folders: Sequence[Path]) -> None:
    """Files and folders of models; and folders around them, innermost first, as far as they are empty."""
    with suppress(OSError):
        for path in files:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def _stored(row: Mapping[str, Any], number: int, setting: str) -> str:
    """A row as a line of JSON, which is what is trained on too: numbers of NumPy as numbers, arrays as lists."""
    try:
        return json.dumps(dict(row), allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        bad = next((name for name, value in row.items() if not _is_json(value)), "?")
        raise UserError(
            f"row {number} of {setting} has a {type(row.get(bad)).__name__} in {bad!r}, which can not be stored with "
            f"the run ({error}): give texts, finite numbers, lists and dictionaries, or leave the column out"
        ) from error


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, default=_plain)
    except (TypeError, ValueError):
        return False
    return True


def _digest_of_model(model: Any, tokenizer: Any) -> str:
    """What tells weights, settings and tokenizer from any others."""
    digest = hashlib.sha256()
    settings = {k: v for k, v in model.config.to_dict().items() if k not in _NOT_THE_MODEL}
    digest.update(json.dumps([type(model).__name__, settings], sort_keys=True, default=str).encode())
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        settings = {k: v for k, v in generation.to_dict().items() if k not in _NOT_THE_MODEL}
        digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, x in model.state_dict().items():
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    digest.update(json.dumps(_told_of(tokenizer), sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def _told_of(tokenizer: Any) -> list[Any]:
    """What a tokenizer does; how it last padded is no part of it."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    inner = tokenizer.get_vocab() if fast is None else json.loads(fast.to_str())
    own = {name: value for name, value in inner.items() if name not in ("padding", "truncation")}
    return [type(tokenizer).__name__, own, tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None)]
