"""A language run's iteration, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proximo.errors import UserError
from proximo.language.ppo.tokens.record import FOLDER, TokenRecord, read_record, recorded
from proximo.views.inspect.against import Against, against
from proximo.views.inspect.pieces import pieces_of
from proximo.views.inspect.responses import Response, responses, scale_of, worst
from proximo.views.seen import Seen


@dataclass(frozen=True)
class TokenInspection:
    """Some responses of one iteration; printed, it is a table for each, or coloured text in a terminal."""

    run: Path
    iteration: int
    """Counted from 0."""
    responses_done: int
    """Of the run, with this iteration's."""
    by: str
    scale: float
    """95th percentile of the sizes of what colours the tokens."""
    count: int
    """Responses of the iteration."""
    shown: tuple[Response, ...]
    """The lowest score first."""
    notes: tuple[str, ...]
    against: Against | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        names = ("iteration", "responses_done", "by", "scale", "count")
        found: dict[str, Any] = {"run": str(self.run)} | {name: getattr(self, name) for name in names}
        found |= {"notes": list(self.notes), "responses": [response.plain() for response in self.shown]}
        return found | ({} if self.against is None else {"against": self.against.plain()})

    def print(self) -> None:
        """To the terminal in colours, or to a file or pipe as tables."""
        from proximo.views.inspect import terminal

        terminal.show(self)


def inspect_tokens(seen: Seen, iteration: int | None, by: str, count: int, other: int | None) -> TokenInspection:
    """See `proximo.inspect_run`.

    Raises:
        UserError: there is no such iteration, or it has no such column.
    """
    if count < 1:
        raise UserError(f"worst = {count} must be at least 1: it says how many responses are shown")
    files = recorded(seen.folder)
    if not files:
        raise UserError(
            f"{seen.folder} has no {FOLDER}: it was trained with record_mb = 0 or before records were kept, or no "
            "iteration has ended yet"
        )
    record = read_record(files[_known(files, max(files) if iteration is None else iteration)])
    scale = scale_of(record, by)
    pieces, note = pieces_of(seen.folder)
    compared = None
    if other is not None:
        compared = against(record, read_record(files[_known(files, other)]), count, pieces)
    notes = [note] if note else []
    if record.clamped:
        notes.append(f"{record.clamped} numbers of this iteration did not fit into float16 and stand at its end")
    return TokenInspection(
        seen.folder,
        record.iteration,
        record.responses,
        by,
        scale,
        len(record.lengths),
        tuple(responses(record, worst(record)[:count], pieces)),
        tuple(notes),
        compared,
    )


def last_record(run: Path) -> TokenRecord | None:
    """A run's last recorded iteration; None where none is, or it is just being deleted or is damaged."""
    files = recorded(run)
    try:
        return read_record(files[max(files)]) if files else None
    except UserError:
        return None


def _known(files: dict[int, Path], iteration: int) -> int:
    if iteration not in files:
        raise UserError(f"iteration {iteration} is not recorded (they count from 0): choose from {spans(list(files))}")
    return iteration


def spans(numbers: Sequence[int]) -> str:
    """Rising numbers in few words.

    >>> spans([0, 7, 8, 9])
    '0, 7 to 9'
    """
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
