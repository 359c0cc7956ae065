"""Models and tokenizers into plain folders that `from_pretrained` loads."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from proximo.errors import UserError
from proximo.language.models.transformers_calls import no_bars, quiet
from proximo.runs.plugins import on_one_line
from proximo.runs.storage.files import parse_json, sync_folder, user_error, write_atomically


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
        usual = part.stat().st_mode & 0o666  # safetensors lets nobody else read what it writes
        for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
            if file.name == "config.json":
                for name, text in (extra or {}).items():
                    write_atomically(folder / name, text.encode())
            if file.is_file():
                file.chmod(usual)
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


def generates(model: Any, stops: Iterable[int], temperature: float = 1.0) -> None:
    """Have plain `generate` sample as the model was trained: at a temperature, uncut, up to these tokens.

    What else the base's settings ask for (cut-offs, penalties, suppressed tokens, shortest lengths) is another
    distribution than the one that was trained, and goes. Its own ends, padding and start stay.

    Args:
        model: of `transformers`; one without generation settings is left alone.
        stops: tokens that it was taught to end with.
        temperature: of the sampling in training; 1 is that of fine-tuning.
    """
    from transformers import GenerationConfig

    before = getattr(model, "generation_config", None)
    if before is None:
        return
    names = ("bos_token_id", "pad_token_id", "decoder_start_token_id")
    kept = {name: x for name in names if (x := getattr(before, name, None)) is not None}
    ends = list(dict.fromkeys([*generation_stops(model), *stops]))
    cut: dict[str, Any] = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    model.generation_config = GenerationConfig(**cut, eos_token_id=ends[0] if len(ends) == 1 else ends, **kept)


def check_savable(model: Any, tokenizer: Any) -> None:
    """Writes all of a model's folder but its weights to a place that is thrown away, before the first step.

    Raises:
        UserError: `transformers` would refuse to save it; a training must not end in that.
    """
    try:
        with tempfile.TemporaryDirectory() as folder, no_bars(), quiet():
            model.save_pretrained(folder, state_dict={})
            tokenizer.save_pretrained(folder)
    except OSError as error:
        raise user_error(error, Path(tempfile.gettempdir())) from error
    except Exception as error:  # of whatever kind: the settings are the user's
        raise UserError(
            f"{type(model).__name__} could not be saved after its training ({on_one_line(error)}): correct its "
            "config.json, generation_config.json or tokenizer files"
        ) from error


def generation_stops(model: Any) -> list[int]:
    """The tokens that a model's generation settings name as ends."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return list(named) if isinstance(named, list) else [] if named is None else [named]


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
