"""The live panel. Nothing runs in the background: it is drawn when the run says so, on the run's own thread."""

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from proximo.runs.console.progress import Snapshot, format_seconds

_STYLES = {"green": "green", "amber": "yellow", "red": "bold red"}
"""Of the truth meter's verdict, by its first word."""
_WIDE = 14
"""Characters of a value that stands beside its label; a finding's name is longer."""


class LivePanel:
    """A panel on stderr that is drawn over itself until `stop`.

    Args:
        now: What to show first.
        console: Where to draw; stderr when None.
    """

    def __init__(self, now: Snapshot, console: Console | None = None) -> None:
        console = console or Console(stderr=True)
        self._live = Live(render(now), console=console, auto_refresh=False, redirect_stdout=False)
        self._live.start(refresh=True)

    def show(self, now: Snapshot) -> None:
        """Draws `now`."""
        self._live.update(render(now), refresh=True)

    def message(self, text: str) -> None:
        """Prints a line above the panel."""
        self._live.console.print(Text(text))  # as Text, or [brackets] would be taken for mark-up

    def stop(self) -> None:
        """Leaves the last drawing standing and gives the terminal back."""
        self._live.stop()


def render(now: Snapshot) -> Panel:
    """The panel for a state."""
    parts: list[RenderableType] = [_head(now), ProgressBar(total=max(now.total, 1), completed=min(now.step, now.total))]
    if now.values or now.phases:
        body = Table.grid(padding=(0, 4))
        body.add_row(_metrics(now), _phases(now))
        parts += [Text(), body, *(Text.assemble(f"{label}  ", shown) for label, shown in _shown(now, wide=True))]
    if str(now.curve):
        parts.append(_Ascent(now))
    if now.text:
        parts += [Text(), Text(now.text, style="italic")]
    if now.load:
        parts.append(Text(now.load, style="dim"))
    return Panel(Group(*parts), title=Text(now.title, style="bold"), subtitle=Text(now.folder, style="dim"))


@dataclass(frozen=True)
class _Ascent:
    """The headline number's course; nothing where the terminal has no such characters."""

    now: Snapshot

    def __rich_console__(self, _: Console, options: ConsoleOptions) -> RenderResult:
        if not options.ascii_only:
            yield Text.assemble(
                (f"{self.now.drawn}  ", ""), (str(self.now.curve), "cyan"), overflow="crop", no_wrap=True
            )


def _head(now: Snapshot) -> Table:
    percent = 100 * now.step // now.total if now.total else 100
    grid = Table.grid(expand=True, padding=(0, 2, 0, 0))
    grid.add_column()
    grid.add_column(justify="center")
    grid.add_column(justify="right")
    clock = f"{format_seconds(now.elapsed)} elapsed, {format_seconds(now.remaining)} left"
    grid.add_row(
        f"{_count(now.step)} / {_count(now.total)} {now.unit}  {percent}%", Text(now.speed, style="bold"), clock
    )
    return grid


def _count(number: int) -> str:
    """As `204,800`, `2.05M` or `10G`."""
    if number < 1_000_000:
        return f"{number:,}"
    return f"{number / 1e6:,.3g}M" if number < 999.5e6 else f"{number / 1e9:,.4g}G"


def _metrics(now: Snapshot) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column()
    grid.add_column(justify="right")
    for label, shown in _shown(now, wide=False):
        grid.add_row(Text(label), shown)
    return grid


def _shown(now: Snapshot, *, wide: bool) -> Iterator[tuple[str, Text]]:
    """Labels and values of the metrics; those that are wide have a line each, or they would break all labels."""
    for column in now.columns:
        value = now.values.get(column.key)
        if value is None:
            continue
        shown = f"{value:{column.format}}"
        if (len(shown) > _WIDE) == wide:
            yield column.label + column.note, Text(shown, style=_STYLES.get(shown.split()[0], "cyan"))


def _phases(now: Snapshot) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, share in now.shares.items():
        grid.add_row(Text(name), ProgressBar(total=1.0, completed=share, width=20), Text(f"{share:4.0%}"))
    return grid
