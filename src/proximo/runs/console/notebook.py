"""A small table in a notebook's cell, drawn over itself."""

from html import escape
from typing import Any

from proximo.runs.console.progress import Snapshot, format_seconds


class Cell:
    """A table in the output of the cell that runs, until `stop`.

    Args:
        now: What to show first.
    """

    def __init__(self, now: Snapshot) -> None:
        from IPython.display import display

        self._handle: Any = display(_Table(now), display_id=True)

    def show(self, now: Snapshot) -> None:
        """Draws `now`."""
        self._handle.update(_Table(now))

    def message(self, text: str) -> None:
        """Prints a line below the table."""
        print(text)

    def stop(self) -> None:
        """Leaves the last drawing standing."""


class _Table:
    """A state of a run as HTML, and as text for who shows none."""

    def __init__(self, now: Snapshot) -> None:
        self._rows = _rows(now)
        self._share = min(1.0, now.step / now.total) if now.total else 1.0

    def _repr_html_(self) -> str:
        cells = "".join(
            f'<tr><td style="text-align:left">{escape(name)}</td><td style="text-align:left">{escape(text)}</td></tr>'
            for name, text in self._rows
        )
        return f'<progress max="1" value="{self._share:.4f}" style="width:20em"></progress><table>{cells}</table>'

    def __repr__(self) -> str:
        return "\n".join(f"{name}  {text}" for name, text in self._rows)


def _rows(now: Snapshot) -> list[tuple[str, str]]:
    """Name and value of all that is shown."""
    percent = 100 * now.step // now.total if now.total else 100
    clock = f"{format_seconds(now.elapsed)} elapsed, {format_seconds(now.remaining)} left"
    return [
        (now.title, now.folder),
        (now.unit, f"{now.step:,} / {now.total:,}  {percent}%  {now.speed}"),
        ("time", clock),
        *(
            (column.label + column.note, f"{value:{column.format}}")
            for column in now.columns
            if (value := now.values.get(column.key)) is not None
        ),
        *([(now.drawn, curve)] if (curve := str(now.curve)) else []),
        ("phases", "  ".join(f"{name} {share:.0%}" for name, share in now.shares.items())),
        ("machine", now.load),
        *([("sample", now.text)] if now.text else []),
    ]
