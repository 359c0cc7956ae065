"""Models and tokenizers into plain folders that `from_pretrained` loads."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from proximo.language.transformers_calls import no_bars
from proximo.runs.errors import UserError
from proximo.runs.files import parse_json, sync_folder, user_error, write_atomically


def save_folder(folder: Path | str, model: Any, tokenizer: Any, extra: Mapping[str, str] | None = None) -> None:
    """Writes what `from_pretrained` loads. `config.json` comes last: without it the folder is no model yet.

    Args:
        folder: where to; other files in it stay.
        model: `transformers` model.
        tokenizer: its tokenizer.
        extra: texts to put beside, by file name.

    Raises:
        UserError: the disk refuses; what was there before is still whole, or is no longer called a model.
    """
    folder = Path(folder)
    part = folder / f".model.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        with no_bars():
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (folder / "config.json").unlink(missing_ok=True)
        for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
            if file.name == "config.json":
                for name, text in (extra or {}).items():
                    write_atomically(folder / name, text.encode())
            os.replace(file, folder / file.name)
        sync_folder(folder)
    except OSError as error:
        raise user_error(error, folder) from error
    except Exception as error:
        if "No space" in str(error) or "os error 28" in str(error):  # safetensors speaks Rust
            raise UserError(f"the disk is full while writing {folder}: free space and run again") from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def stops_at(model: Any, tokens: Iterable[int]) -> None:
    """Have plain `generate` end at these tokens too: what a model was taught to end with stands in its settings."""
    there = generation_stops(model)
    more = [token for token in dict.fromkeys(tokens) if token not in there]
    if more and getattr(model, "generation_config", None) is not None:
        model.generation_config.eos_token_id = [*there, *more]


def generation_stops(model: Any) -> list[int]:
    """The tokens that a model's generation settings name as ends."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return named if isinstance(named, list) else [] if named is None else [named]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: it can not be read, or is something else.
    """
    try:
        value = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): restore the file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object: restore the file")
    return value
