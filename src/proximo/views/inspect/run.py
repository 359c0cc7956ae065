"""Choose what a run is inspected by."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from proximo.errors import UserError
from proximo.runs.storage.folder import find_run
from proximo.views.seen import read_run

if TYPE_CHECKING:
    from proximo.views.inspect.tokens import TokenInspection


def inspect_run(
    run: str | PathLike[str],
    iteration: int | None = None,
    *,
    by: str | None = None,
    worst: int | None = None,
    against: int | None = None,
) -> "TokenInspection":
    """Look at what a language run learnt from in one iteration, token by token.

    Args:
        run: folder of the run, or of all its stages.
        iteration: counted from 0; None takes the last that is recorded.
        by: what colours the tokens: `advantage` (if None), `kl` or `value`.
        worst: how many responses are shown, the lowest score first; 5 if None.
        against: another iteration: which tokens became likelier since, and its responses to the same prompts.

    Returns:
        What was found: `print()` shows it, `plain()` gives JSON.

    Raises:
        UserError: there is no such run or iteration, or it has no such column.
    """
    seen = read_run(find_run(Path(run)))
    if seen.kind != "language":
        raise UserError(f"{run} is a run of kind {seen.kind}: nothing of it is recorded token by token")
    from proximo.views.inspect.tokens import inspect_tokens

    return inspect_tokens(seen, iteration, by or "advantage", 5 if worst is None else worst, against)
