"""`proximo tune`: a search for settings."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from shlex import quote
from typing import Annotated, Literal

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command


@dataclass(frozen=True)
class Tune:
    """Search for settings that learn a task better (Optuna); hopeless trials end early, the best becomes a preset."""

    environment: tyro.conf.Positional[str]
    """A task that `proximo train` takes."""
    space: str = "usual"
    """What is tried: optimiser, credit, usual (both, and exploration) or whole (and the rollout's shape)."""
    trials: int = 30
    """Trials in all; a search that was stopped goes on."""
    steps: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Environment steps of each trial (default: the preset's)."""
    preset: str = "tuned"
    """What gives the settings that are not tried."""
    seed: int = 0
    """Seed of the trainings and of the search."""
    run: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Folder of the search (default: runs/tune-ENVIRONMENT)."""
    launch: Literal["here", "ray"] = "here"
    """Train the trials here, one after the other, or by the workers of a Ray cluster (that of RAY_ADDRESS, or one of
    its own on this machine), as many at once as it has CPUs or GPUs."""
    restarts: int = 0
    """With --launch ray: how often a trial starts anew from its last checkpoint where its worker was lost."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Search, and print what was found."""
        from proximo.control.tuning import FEWEST, tune
        from proximo.runs.console.tables import print_results

        found = tune(
            self.environment,
            space=self.space,
            trials=self.trials,
            steps=self.steps,
            preset=self.preset,
            seed=self.seed,
            run=self.run or None,
            launch=self.launch,
            restarts=self.restarts,
        )
        if self.json:
            print(json.dumps({**vars(found), "path": str(found.path)}))
            return 0
        title = f"{self.environment}: the best of {found.trials} trials, {found.pruned} of them ended early"
        shown = {name: f"{value:.4g}{_bar(found.importance.get(name))}" for name, value in found.best.items()}
        print_results({"last-100 training return": f"{found.best_return:,.1f}", **shown}, title)
        if not found.importance:
            print(f"what mattered is told from {FEWEST} trials on; there are {found.trials} so far")
        best = quote(str(found.path / "best.toml"))
        print(f"next: proximo train {quote(self.environment)} --preset {best} --seeds 10..12")
        return 0


def _bar(share: float | None) -> str:
    return "" if share is None else f"   importance {share:4.0%} {'█' * round(20 * share)}"


VERBS: dict[str, Callable[[list[str]], int]] = {"tune": command(Tune, "tune")}
