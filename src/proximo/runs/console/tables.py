"""Tables and results on stdout: as wide as the terminal, and one line a row where they are piped."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

_UNLIMITED = 100_000  # columns of a file or pipe


def print_table(rows: Sequence[Sequence[Any]], headers: Sequence[str]) -> None:
    """Prints aligned columns to stdout, numbers to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for i, header in enumerate(headers):
        number = bool(rows) and all(isinstance(row[i], int | float) or row[i] is None for row in rows)
        table.add_column(header, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))  # as Text, or [brackets] would be taken for mark-up
    _print(table)


def print_results(results: Mapping[str, Any], title: str = "") -> None:
    """Prints names and values to stdout, one a line."""
    from rich.table import Table
    from rich.text import Text

    if title:
        print(title)
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in results.items():
        grid.add_row(Text(f"  {name}"), Text(_cell(value)))
    _print(grid)


def _print(table: Any) -> None:
    from rich.console import Console

    console = Console(width=None if sys.stdout.isatty() else _UNLIMITED)
    with console.capture() as drawn:
        console.print(table)
    lines = [line.rstrip() for line in drawn.get().splitlines()]
    print("\n".join(line for line in lines if line))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
