"""Progress of a run: a live panel in a terminal, a table in a notebook, single lines elsewhere, or nothing.

Everything goes to stderr, so that stdout stays free for results.
"""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from proximo.errors import require_word
from proximo.runs.console.machine import load
from proximo.runs.console.sparkline import Curve

if TYPE_CHECKING:
    from proximo.runs.console.live import LivePanel
    from proximo.runs.console.notebook import Cell

Mode = Literal["auto", "live", "plain", "quiet"]

_RATE_WINDOW = 20.0  # seconds over which steps/s are averaged
_RENDER_SECONDS = 0.25  # between two drawings, if drawing takes less than `_SHARE` of that
_MOST_SECONDS = 10.0
_SHARE = 0.003
"""Of a run's time that the fastest drawing may take; all together, which are slower, then take less than 1 %. But a
panel is drawn every `_MOST_SECONDS` at least."""
_LAST_DRAWINGS = 3  # whose fastest says how long the terminal takes: others had to wait for the processor
_TEXT_SECONDS = 30.0  # between two sample texts
_TEXT_LENGTH = 220  # characters of one that are shown


@dataclass(frozen=True)
class Column:
    """A metric to show: its name in `values`, its label in the panel and in a line, and how its number is written."""

    key: str
    label: str
    short: str
    format: str
    note: str = ""


HEALTH = Column("verdict", "health", "health", "s")
"""The truth meter's line: its colour, and the worst cause."""

COLUMNS = (
    Column("return", "return", "return", ",.1f", " (last 100)"),
    Column("task_return", "the task's own return", "the task's own", ",.1f"),
    Column("episode_length", "episode length", "", ",.1f"),
    Column("approx_kl", "KL", "KL", ".3f"),
    Column("final_approx_kl", "KL after the last step", "KL end", ".3f"),
    Column("clip_fraction", "clip fraction", "clip", ".2f"),
    Column("explained_variance", "explained variance", "EV", ".2f"),
    Column("critic_error", "critic's error / returns' deviation", "err", ".2f"),
    Column("entropy", "entropy", "", ".3f"),
    Column("learning_rate", "learning rate", "", ".2e"),
    HEALTH,
)
"""Columns of a control run; one without a short label is in the panel only."""

_SHORT_PHASES = {"environment": "env"}


@dataclass
class Snapshot:
    """State of a run. Times are in seconds; `rate` is in units per second, None before it is known."""

    title: str
    unit: str
    total: int
    columns: Sequence[Column]
    folder: str = ""
    step: int = 0
    rate: float | None = None
    elapsed: float = 0.0
    values: dict[str, float | str | None] = field(default_factory=dict)
    phases: dict[str, float] = field(default_factory=dict)
    curve: Curve = field(default_factory=Curve)
    """Of the first column that has values."""
    drawn: str = ""
    """Label of that column."""
    load: str = ""
    """What the run takes of the machine."""
    text: str = ""
    """A sample and its score, in one line."""

    @property
    def speed(self) -> str:
        """`rate` as it is shown, with a decimal where it is small; "" before it is known."""
        return "" if self.rate is None else f"{self.rate:,.{0 if self.rate >= 10 else 1}f} {self.unit}/s"

    @property
    def remaining(self) -> float | None:
        """Seconds until the end at the present rate."""
        return max(self.total - self.step, 0) / self.rate if self.rate else None

    @property
    def shares(self) -> dict[str, float]:
        """The part of the measured time that each phase takes, in [0, 1]."""
        whole = sum(self.phases.values())
        return {name: seconds / whole for name, seconds in self.phases.items()} if whole > 0 else {}


class Progress:
    """Shows how a run gets on.

    Args:
        title: What runs.
        total: Steps at the end.
        unit: What is counted.
        mode: "live" draws a panel, "plain" prints a line now and then, "quiet" shows nothing; "auto" is live in a
            terminal and plain otherwise (no terminal, TERM=dumb, or CI set).
        every_seconds: Between two lines of the plain mode.
        folder: The run's folder, to be shown.
        start: The step from which this process resumes.
        columns: The metrics to show; those without a value are left out.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "steps",
        mode: Mode = "auto",
        every_seconds: float = 5.0,
        *,
        folder: Path | str = "",
        start: int = 0,
        columns: Sequence[Column] = COLUMNS,
    ) -> None:
        self.mode: Mode = _choose_mode() if mode == "auto" else mode
        self._now = Snapshot(title, unit, total, columns, folder=str(folder), step=start)
        self._every = _RENDER_SECONDS if self.mode == "live" else every_seconds
        self._points: deque[tuple[float, int]] = deque()
        self._drawings: deque[float] | None = None  # seconds of the last ones; None before the first
        self._panel: LivePanel | Cell | None = None
        self._begun = self._shown = time.monotonic()
        self._text_shown = -math.inf
        self._stale = False

    def __enter__(self) -> Self:
        self._begun = self._shown = time.monotonic()
        self._points.append((self._begun, self._now.step))
        if self.mode == "live" and in_notebook():
            from proximo.runs.console.notebook import Cell

            self._panel = Cell(self._now)
        elif self.mode == "live":
            from proximo.runs.console.live import LivePanel  # rich is imported only by those who see it

            self._panel = LivePanel(self._now)
        elif self.mode == "plain":
            self._say(f"{self._now.title}  {self._now.folder}".rstrip())
        return self

    def __exit__(self, *_: object) -> None:
        if self._stale:
            self._show()
        if self._panel is not None:
            panel, self._panel = self._panel, None
            with self._or_quiet():
                panel.stop()

    def update(
        self,
        step: int,
        values: Mapping[str, float | str | None] | None = None,
        phases: Mapping[str, float] | None = None,
    ) -> None:
        """Takes what is new and shows it when it is time to.

        Args:
            step: Steps so far.
            values: Metrics by column key; a value of None leaves the last one standing.
            phases: Seconds that each phase took since the last update; they are summed over the run.
        """
        now = time.monotonic()
        self._now.step, self._now.elapsed = step, now - self._begun
        self._now.total = max(self._now.total, step)  # whole iterations may be more than was asked for
        self._now.values.update({name: value for name, value in (values or {}).items() if value is not None})
        self._draw_on(values or {})
        for name, seconds in (phases or {}).items():
            self._now.phases[name] = self._now.phases.get(name, 0.0) + seconds
        self._measure_rate(now, step)
        self._stale = True
        if now - self._shown >= self._every:
            self._show()

    def _draw_on(self, values: Mapping[str, float | str | None]) -> None:
        """Adds to the curve of the first column that has a value; it begins anew where that becomes another one."""
        now = self._now
        column = next((column for column in now.columns if column.key in now.values), None)
        if column is None:
            return
        if column.label != now.drawn:
            now.drawn, now.curve = column.label, Curve()
        if isinstance(value := values.get(column.key), int | float):
            now.curve.add(value)

    def show_also(self, names: Sequence[str]) -> None:
        """Shows these metrics behind the others from now on."""
        known = {column.key for column in self._now.columns}
        new = [Column(x, x, x, ".4g") for x in names if x not in known and not x.startswith("seconds/")]
        self._now.columns = [*self._now.columns, *new]

    def sample(self, prompt: str, response: str, score: float) -> None:
        """Shows a sample text and its score, two a minute at most."""
        now = time.monotonic()
        if self.mode == "quiet" or now - self._text_shown < _TEXT_SECONDS:
            return
        self._text_shown = now
        self._now.text = f"{score:+.2f}  {_one_line(prompt)} ▸ {_one_line(response)}"
        if self._panel is None:
            self._say(f"  sample {self._now.text}")

    def message(self, text: str) -> None:
        """Prints a line above the panel, or among the lines; nothing in quiet mode."""
        if self._panel is not None:
            with self._or_quiet():
                self._panel.message(text)
        elif self.mode != "quiet":
            self._say(text)

    def warning(self, text: str) -> None:
        """`message`, in quiet mode too: it bears on what the results mean."""
        if self.mode == "quiet":
            self._say(f"proximo: {text}")
        else:
            self.message(text)

    def _measure_rate(self, now: float, step: int) -> None:
        self._points.append((now, step))
        while len(self._points) > 2 and now - self._points[1][0] > _RATE_WINDOW:
            self._points.popleft()
        then, first = self._points[0]
        self._now.rate = (step - first) / (now - then) if now > then and step > first else None

    def _show(self) -> None:
        self._shown, self._stale = time.monotonic(), False
        if self._panel is not None:
            begun = time.perf_counter()
            self._now.load = load()
            with self._or_quiet():
                self._panel.show(self._now)
            self._time_drawing(time.perf_counter() - begun)
        elif self.mode == "plain":
            self._say(format_line(self._now))

    def _time_drawing(self, seconds: float) -> None:
        """Set the pause by the last drawings; the first one imports what it needs, and does not count."""
        if self._drawings is None:
            self._drawings = deque(maxlen=_LAST_DRAWINGS)
        else:
            self._drawings.append(seconds)
            self._every = _pause(min(self._drawings))

    def _say(self, text: str) -> None:
        with self._or_quiet():
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def _or_quiet(self) -> Iterator[None]:
        """The reader of stderr may be gone (a closed terminal or pipe); the run and its record continue."""
        try:
            yield
        except OSError:
            self.mode, self._panel = "quiet", None


def _pause(drawing: float) -> float:
    """Seconds until a panel is drawn again, whose drawing took so many: a slow terminal must not slow the run."""
    return min(max(_RENDER_SECONDS, drawing / _SHARE), _MOST_SECONDS)


def checked_mode(progress: Any) -> Mode:
    """How progress is to be shown, as it is given from Python.

    Raises:
        UserError: it is none of the words.
    """
    require_word("progress", progress, get_args(Mode))
    mode: Mode = progress
    return mode


def format_line(now: Snapshot) -> str:
    """One line: `steps 204,800/1,000,000  20% | 15,300 steps/s | return 1,234.5 (last 100) | … | env 55%`."""
    percent = 100 * now.step // now.total if now.total else 100
    parts = [f"{now.unit} {now.step:,}/{now.total:,}  {percent}%"]
    if now.speed:
        parts.append(now.speed)
    for column in now.columns:
        value = now.values.get(column.key)
        if column.short and value is not None:
            parts.append(f"{column.short} {value:{column.format}}{column.note}")
    if shares := now.shares:
        parts.append(" ".join(f"{_SHORT_PHASES.get(name, name)} {share:.0%}" for name, share in shares.items()))
    return " | ".join(parts)


def format_seconds(seconds: float | None) -> str:
    """`1:02:03`, `2:03`, or `-` where unknown."""
    if seconds is None:
        return "-"
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _one_line(text: str) -> str:
    """Text without line breaks and control characters, cut in its middle."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    half = _TEXT_LENGTH // 2
    return line if len(line) <= _TEXT_LENGTH else f"{line[:half]} … {line[-half:]}"


def _choose_mode() -> Mode:
    if in_notebook():
        return "live"
    terminal = sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    watched = os.environ.get("CI", "").lower() in ("", "0", "false")
    return "live" if terminal and watched else "plain"
