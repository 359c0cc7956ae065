"""`samples.jsonl` of a run: some responses of each iteration with their scores."""

import json
from pathlib import Path

from proximo.language.ppo.training import PPOTraining
from proximo.runs.storage.files import append, parse_json, user_error, write_atomically
from proximo.runs.storage.folder import RunFolder


def keep_texts(training: PPOTraining, folder: RunFolder, done: int) -> None:
    """Add texts of the iteration that ended at `done` responses.

    Raises:
        UserError: the disk refuses.
    """
    file = _file(folder)
    lines = "".join(
        json.dumps({"responses": done, **row}, ensure_ascii=False) + "\n"
        for row in training.texts(training.config.samples)
    )
    try:
        with open(file, "ab") as out:
            append(out.fileno(), lines.encode())
    except OSError as error:
        raise user_error(error, file) from error


def cut_texts(folder: RunFolder, done: int) -> None:
    """Leave out what was sampled after the checkpoint that the run goes on from."""
    file = _file(folder)
    if file.exists():
        lines = file.read_bytes().splitlines(keepends=True)
        write_atomically(file, b"".join(line for line in lines if _is_of(line, done)))


def _file(folder: RunFolder) -> Path:
    return folder.path / "samples.jsonl"


def _is_of(line: bytes, done: int) -> bool:
    try:
        return line.endswith(b"\n") and bool(parse_json(line)["responses"] <= done)
    except (ValueError, TypeError, KeyError):  # torn by a kill
        return False
