"""`proximo replay`: whose run it is decides what an update is made of."""

import json
from contextlib import ExitStack
from pathlib import Path

from proximo.runs.replay.entry import Kept, read
from proximo.runs.replay.report import Replay, World, replay
from proximo.runs.storage.folder import find_run


def show(folder: Path, iteration: int | None, change: str | None, *, as_json: bool) -> int:
    """Print what `replay_run` finds."""
    found = replay_run(folder, iteration, change)
    if as_json:
        print(json.dumps({"run": str(folder), **found.describe()}))
        return 0
    from proximo.runs.console.progress import print_table

    print(f"iteration {found.iteration} of {folder} (kept: {', '.join(map(str, found.kept))}): {found.verdict}")
    headings = ["", "as it ran"] + ([f"with {found.change}"] if found.change else [])
    print_table(found.rows(), headings)
    print("\n".join(found.lines))
    return 0


def replay_run(folder: Path, iteration: int | None = None, change: str | None = None) -> Replay:
    """Do one of a run's last updates again.

    Args:
        folder: of a control run, a language run, or of all stages of one.
        iteration: counted from 0; None takes the newest that is kept.
        change: `KEY=VALUE`, one setting of which is asked what if; None asks nothing.

    Raises:
        UserError: there is no such run or update, or the setting can not be changed.
    """
    kept = read(find_run(folder) / "replay")
    entry = kept.choose(iteration)
    with ExitStack() as stack:
        return replay(kept, entry, _world(kept, stack), change)


def _world(kept: Kept, stack: ExitStack) -> World:
    if kept.run.get("world") == "control":
        from proximo.control.training.replay import replay_world

        return replay_world(kept, stack)
    from proximo.language.ppo.replay import replay_world as language_world

    return language_world(kept)
