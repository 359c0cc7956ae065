"""Tokens of a language run's last recorded iteration, for the page to colour."""

from typing import Any

from proximo.views.numbers import short
from proximo.views.seen import Seen

RESPONSES = 3
"""Of the lowest score, and as many of the highest."""
TOKENS = 200
"""Of one response that a page shows."""


def tokens(run: Seen) -> dict[str, Any] | None:
    """The worst and the best responses, taken apart; None where no token is recorded."""
    if run.kind != "language" or not (run.folder / "tokens").is_dir():
        return None
    from proximo.views.inspect.pieces import pieces_of, visible
    from proximo.views.inspect.responses import BY, Response, responses, scale_of, worst
    from proximo.views.inspect.tokens import last_record

    if (record := last_record(run.folder)) is None:
        return None
    pieces, note = pieces_of(run.folder, run.settings)
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
