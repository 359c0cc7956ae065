"""An inspected iteration in the terminal: tokens on coloured ground, or tables where nothing shows colours."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proximo.runs.console.tables import print_table
from proximo.views.inspect.against import Against, Shift
from proximo.views.inspect.responses import Response
from proximo.views.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from proximo.views.inspect.tokens import TokenInspection

NEGATIVE, POSITIVE = (213, 94, 0), (0, 114, 178)  # vermillion and blue of Okabe and Ito
LEVELS = 4
"""Steps of colour on either side of none."""
_COLUMNS = {"log_prob": "log-prob", "reference": "reference", "kl": "KL", "value": "value", "advantage": "advantage"}


def show(found: "TokenInspection") -> None:
    """Print an inspection."""
    from rich.console import Console

    console = Console(highlight=False)
    coloured = sys.stdout.isatty() and console.color_system is not None and not console.no_color
    out = console if coloured else None
    print(
        f"iteration {found.iteration} of {visible(str(found.run))} ({found.responses_done:,} responses so far): the "
        f"{len(found.shown)} of its {found.count} responses with the lowest score"
    )
    for note in found.notes:
        print(visible(note))
    if out is not None:
        out.print(legend(found.by, found.scale))
    for response in found.shown:
        print(f"\nresponse {response.number}, {_about(response)}")
        if out is not None:
            out.print(coloured_text(response, found.by, found.scale))
        else:
            print(f"prompt {response.prompt!r}")
            _table(response)
        for part in response.parts:
            print(f"  {part.amount:>+10.4f}  {visible(part.name)}{f' ({visible(part.how)})' if part.how else ''}")
        print(f"  {response.total:>+10.4f}  reward that it was learnt from")
    if found.against is not None:
        _against(found, found.against, out)


def level(value: float, scale: float) -> int:
    """Step of colour, -4 to 4: 0 is none."""
    return round(LEVELS * max(-1.0, min(1.0, value / scale))) if scale > 0 else 0


def style(step: int) -> str:
    """Of rich: letters and ground of a step of colour."""
    if step == 0:
        return ""
    towards, share = POSITIVE if step > 0 else NEGATIVE, abs(step) / LEVELS
    ground = tuple(round(255 + share * (c - 255)) for c in towards)
    letters = "#ffffff" if step == LEVELS else "#000000"
    return f"{letters} on #{ground[0]:02x}{ground[1]:02x}{ground[2]:02x}"


def legend(by: str, scale: float) -> "Text":
    """What the colours mean, in numbers."""
    from rich.text import Text

    text = Text(f"{by}: ")
    for step in range(-LEVELS, LEVELS + 1):
        sign = "≤ " if step == -LEVELS else "≥ " if step == LEVELS else ""
        text.append(f" {sign}{scale * step / LEVELS:.3g} ", style(step))
    return text.append(f"  (the last is the 95th percentile of |{by}|)")


def coloured_text(response: Response, by: str, scale: float) -> "Text":
    """Prompt and response."""
    from rich.text import Text

    text = Text().append(visible(response.prompt), "dim").append(" ")
    for token, value in zip(response.tokens, response.columns[by], strict=True):
        text.append(visible(token) or "·", style(level(value, scale)))
    return text


def _about(response: Response) -> str:
    ended = "" if response.finished else ", cut at its limit"
    return f"score {response.score:.4g}, {len(response.tokens)} tokens{ended}"


def _table(response: Response) -> None:
    there = [name for name in _COLUMNS if name in response.columns]
    rows = [[repr(token), *(response.columns[name][i] for name in there)] for i, token in enumerate(response.tokens)]
    print_table(rows, ["token", *(_COLUMNS[name] for name in there)])


def _against(found: "TokenInspection", other: Against, out: "Console | None") -> None:
    print(
        f"\nfrom iteration {other.iteration} ({other.tokens[0]:,} tokens) to {found.iteration} ({other.tokens[1]:,}):"
    )
    for title, shifts in (("likelier", other.likelier), ("rarer", other.rarer)):
        print(f"\ntokens that became {title}{'' if shifts else ': none'}")
        if shifts:
            print_table(
                [_shift(shift, other.tokens) for shift in shifts],
                ["token", "then", "now", "share then", "share now", "z"],
            )
    print("\n" + ("the same prompts" if other.pairs else "no prompt stands in both iterations"))
    for before, now in other.pairs:
        print(f"\nprompt {now[0].prompt!r}")
        if out is not None:
            out.print(_columns(found, before, now))
            continue
        for title, several in (("then", before), ("now", now)):
            for response in several:
                print(f"  {title:<5}{response.score:>9.4g}  {''.join(response.tokens)!r}")


def _shift(shift: Shift, of: tuple[int, int]) -> list[object]:
    shares = [f"{count / total:.2%}" for count, total in zip((shift.before, shift.now), of, strict=True)]
    return [repr(shift.text), shift.before, shift.now, *shares, round(shift.z, 2)]


def _columns(found: "TokenInspection", before: Sequence[Response], now: Sequence[Response]) -> object:
    """The responses then and now, side by side, each coloured by its own iteration's numbers on this one's scale."""
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for title in ("then", "now"):
        table.add_column(title, ratio=1, overflow="fold")
    cells = []
    for several in (before, now):
        cell = Text()
        for response in several:
            cell.append(f"{response.score:.4g}  ", "bold")
            for token, value in zip(response.tokens, response.columns[found.by], strict=True):
                cell.append(visible(token) or "·", style(level(value, found.scale)))
            cell.append("\n")
        cells.append(cell)
    table.add_row(*cells)
    return table
