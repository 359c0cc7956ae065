"""Metrics, step by step: one JSON line each, and the same scalars for TensorBoard."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from proximo.errors import UserError
from proximo.runs.storage.files import append, parse_json, read_error, user_error, write_atomically

if TYPE_CHECKING:
    from proximo.runs.storage.tensorboard import TensorBoardWriter

Value = float | int | str | None

_RESERVED = ("step", "time", "not_finite")
_JSON = (float, int)  # nearly all values: to ask an abstract class takes many times as long


class MetricsWriter:
    """Appends to a run's `metrics.jsonl` and, under the same names, to its TensorBoard events.

    Each line is in the operating system's hands when `write` returns, so a killed run loses none. A last line torn by
    a kill or a loss of power is dropped on opening. A resumed run counts time on from its last line.

    Args:
        folder: The run's folder.
        tensorboard: Whether to write TensorBoard events as well.

    Raises:
        UserError: The file cannot be read or written (here and in every method).
    """

    def __init__(self, folder: Path, *, tensorboard: bool = True) -> None:
        self.path = folder / "metrics.jsonl"
        self._tensorboard_folder = folder / "tensorboard" if tensorboard else None
        self._tensorboard: TensorBoardWriter | None = None
        self._resume_after: int | None = None
        self._descriptor: int | None = None
        self._rewrite(read_metrics(self.path) if self.path.exists() else [])

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Appends the values of one step.

        Args:
            step: Environment steps (control) or responses (language) so far.
            values: Names ("loss/policy") and values. NaN and infinities become null and are named under "not_finite".

        Raises:
            ValueError: A reserved name: "step", "time" or "not_finite".
        """
        plain = {name: _plain(name, value) for name, value in values.items()}
        bad = [name for name, value in plain.items() if isinstance(value, float) and not math.isfinite(value)]
        row: dict[str, Any] = {"step": int(step), "time": round(self.seconds, 3)}
        row |= {name: None if name in bad else value for name, value in plain.items()}
        self._append(json.dumps(row | ({"not_finite": bad} if bad else {}), allow_nan=False).encode() + b"\n")
        if self._tensorboard_folder is not None:
            scalars = {name: float(value) for name, value in plain.items() if isinstance(value, int | float)}
            self._open_tensorboard(self._tensorboard_folder).write(int(step), scalars)

    @property
    def seconds(self) -> float:
        """Of the run so far, earlier calls included."""
        return time.monotonic() - self._start

    def truncate_after(self, step: int) -> None:
        """Removes what was written beyond `step`, the checkpoint's that is resumed from, so that no row comes twice.

        So does the last word of an iteration that failed (its `error`), for it is done again.
        """
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None
        self._resume_after = step
        self._rewrite([row for row in read_metrics(self.path) if row["step"] <= step and "error" not in row])

    def close(self) -> None:
        """Closes the files; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        # Infinities are never written; where somebody else did, they stay.
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
        if not self.path.exists() or self.path.stat().st_size != len(data):
            write_atomically(self.path, data)
        if self._descriptor is not None:
            os.close(self._descriptor)
        try:
            self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            raise user_error(error, self.path, "opening") from error
        self._start = time.monotonic() - (rows[-1]["time"] if rows else 0.0)

    def _append(self, line: bytes) -> None:
        if self._descriptor is None:
            raise ValueError("the metrics are closed")
        try:
            if os.fstat(self._descriptor).st_nlink == 0:
                raise UserError(f"{self.path} was deleted while the run writes to it: start the run again")
            append(self._descriptor, line)
        except OSError as error:
            raise user_error(error, self.path) from error

    def _open_tensorboard(self, folder: Path) -> "TensorBoardWriter":
        if self._tensorboard is None:
            from proximo.runs.storage.tensorboard import (
                TensorBoardWriter,  # its import costs 0.1 s, here and not at the start
            )

            self._tensorboard = TensorBoardWriter(folder, resume_after=self._resume_after)
        return self._tensorboard


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads `metrics.jsonl`; a last line that a kill has torn is left out.

    Raises:
        UserError: The file cannot be read, or a line before the last is damaged.
    """
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise read_error(error, path) from error
    rows = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is nothing, or torn
        try:
            row = parse_json(line)
            complete = isinstance(row, dict) and type(row.get("step")) is int and _is_number(row.get("time"))
        except ValueError:
            complete = False
        if complete:
            rows.append(row)
        elif any(lines[number:]):
            raise UserError(f"line {number} of {path} is damaged: remove that line or restore the file from a copy")
    return rows


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _plain(name: str, value: Any) -> Value:
    if name in _RESERVED:
        raise ValueError(f"a metric may not be called {name!r}: every line has that already")
    if type(value) in _JSON or value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    raise TypeError(f"metric {name!r} is a {type(value).__name__}, not a number, a text or None")
