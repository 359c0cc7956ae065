"""Tokens of a language run's last recorded iteration, for the page to colour."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from proximo.views.numbers import short
from proximo.views.seen import Seen
from proximo.views.visible import visible

if TYPE_CHECKING:
    from proximo.views.inspect.pieces import Pieces

RESPONSES = 3
"""Of the lowest score, and as many of the highest."""
TOKENS = 200
"""Of one response that a page shows."""


def has_tokens(run: Seen) -> bool:
    """Whether its iterations are recorded token by token."""
    return run.kind == "language" and (run.folder / "tokens").is_dir()


def tokens(run: Seen, decoder: Callable[[Seen], tuple["Pieces", str]] | None = None) -> dict[str, Any] | None:
    """The worst and the best responses, taken apart; None where no token is recorded.

    Args:
        run: any.
        decoder: of its tokens, where somebody has loaded it already, see `inspect.pieces.pieces_of`.
    """
    if not has_tokens(run):
        return None
    from proximo.views.inspect.pieces import pieces_of
    from proximo.views.inspect.responses import BY, Response, responses, scale_of, worst
    from proximo.views.inspect.tokens import last_record

    if (record := last_record(run.folder)) is None:
        return None
    pieces, note = pieces_of(run.folder) if decoder is None else decoder(run)
    order, by = worst(record), [name for name in BY if getattr(record, name) is not None]
    chosen = list(dict.fromkeys([*order[:RESPONSES], *order[: -RESPONSES - 1 : -1]]))

    def drawn(response: Response) -> dict[str, Any]:
        return {
            "number": response.number,
            "prompt": visible(response.prompt),
            "tokens": [visible(text) or "·" for text in response.tokens[:TOKENS]],
            "left": max(0, len(response.tokens) - TOKENS),
            "columns": {name: [float(f"{x:.3g}") for x in response.columns[name][:TOKENS]] for name in by},
            "score": short(response.score),
            "parts": [[part.name, f"{part.amount:+.4f}", part.how] for part in response.parts],
            "total": f"{response.total:+.4f}",
        }

    return {
        "iteration": record.iteration,
        "count": len(record.lengths),
        "note": note,
        "scale": {name: float(f"{scale_of(record, name):.3g}") for name in by},
        "responses": [drawn(response) for response in responses(record, chosen, pieces)],
    }
