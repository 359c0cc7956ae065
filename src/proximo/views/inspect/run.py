"""Choose what a run is inspected by."""

from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proximo.errors import UserError
from proximo.runs.storage.folder import find_run
from proximo.views.seen import read_run

if TYPE_CHECKING:
    from proximo.views.inspect.episode import EpisodeInspection
    from proximo.views.inspect.tokens import TokenInspection


def inspect_run(
    run: str | PathLike[str],
    iteration: int | None = None,
    *,
    by: str | None = None,
    worst: int | None = None,
    against: int | None = None,
    policy: str | None = None,
    seed: int | None = None,
    limit: int | None = None,
    out: str | PathLike[str] | None = None,
) -> "TokenInspection | EpisodeInspection":
    """Look at what a run learns from: tokens of a language run's iteration, or steps of an episode of a control run.

    Args:
        run: folder of the run, or of all stages of a language run.
        iteration: of a language run, counted from 0; None takes the last that is recorded.
        by: what colours the tokens: `advantage` (if None), `kl` or `value`.
        worst: how many responses are shown, the lowest score first; 5 if None.
        against: another iteration: which tokens became likelier since, and its responses to the same prompts.
        policy: of a control run: `latest` (if None) or `best`; it takes its most probable actions.
        seed: of the episode; None takes one that training never saw.
        limit: steps after which the episode is cut; 1,000 if None.
        out: the page to write; None makes `RUN/inspect/SEED.html`.

    Returns:
        What was found: `print()` shows it, `plain()` gives JSON.

    Raises:
        UserError: there is no such run, iteration or column, or an argument is of the other kind of run.
    """
    seen = read_run(find_run(Path(run)))
    of_tokens = {"iteration": iteration, "by": by, "worst": worst, "against": against}
    of_steps = {"policy": policy, "seed": seed, "limit": limit, "out": out}
    if seen.kind == "language":
        _refuse(of_steps, "a language run is inspected token by token")
        from proximo.views.inspect.tokens import inspect_tokens

        return inspect_tokens(seen, iteration, by or "advantage", 5 if worst is None else worst, against)
    if seen.kind == "control":
        _refuse(of_tokens, "a control run is inspected over an episode")
        from proximo.views.inspect.episode import LIMIT, inspect_episode

        file = None if out is None else Path(out)
        return inspect_episode(seen.folder, policy or "latest", seed, LIMIT if limit is None else limit, file)
    raise UserError(f"{run} is a run of kind {seen.kind}: only PPO on language models, and control runs, are inspected")


def _refuse(given: dict[str, Any], why: str) -> None:
    for name, value in given.items():
        if value is not None:
            raise UserError(f"{name} = {value} says nothing here: {why}; leave it out")
