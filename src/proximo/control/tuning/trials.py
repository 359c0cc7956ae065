"""The trials of a search: what is drawn, how one trains, and what the study is told of it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from proximo.control.config import TrainConfig
from proximo.control.trainer import Trainer
from proximo.control.tuning.spaces import with_settings
from proximo.errors import UserError
from proximo.runs.console.streams import say
from proximo.runs.session.opening import Call

if TYPE_CHECKING:
    from optuna import Study, Trial

LOOKS = 20
"""How often a trial's return is compared with that of the others."""
FREE = 5
"""Trials, and looks of each, before the first is ended early."""


class Came(NamedTuple):
    """What a trial has come to."""

    value: float | None
    """Its last return; None where no episode has ended, or it failed."""
    how: str
    """`complete`, `pruned`, `stopped` or `fail`."""


def train_trial(
    config: TrainConfig,
    look: Callable[[int, float], bool],
    *,
    fresh: bool = True,
    stops: Callable[[], bool] = lambda: False,
) -> Came:
    """Train with the settings of a trial.

    Args:
        config: complete.
        look: called `LOOKS` times with the number of the look and the return so far; whether the trial is hopeless.
        fresh: begin anew, whatever the folder holds.
        stops: called each iteration; whether the search was told to stop.
    """
    trainer = Trainer.of(config, mode="quiet", call=Call(fresh=fresh))
    seen, looks = None, 0
    for row in trainer:
        seen = row["return"] if row.get("return") is not None else seen
        if stops():
            trainer.stop()
        if seen is None or row["step"] * LOOKS < (looks + 1) * config.steps:
            continue
        looks = int(row["step"] * LOOKS // config.steps)
        if look(looks, float(seen)) and looks < LOOKS:
            trainer.stop()
            return Came(seen, "pruned")
    run = trainer.run
    if run is not None and run.finished_before:  # its worker was lost between its end and its word
        seen = run.results["last_100_training_return"]
    stopped = run is not None and run.stopped is not None
    return Came(seen, "stopped" if stopped else "fail" if seen is None else "complete")


class Search:
    """A study and its trials, which train one after the other, or elsewhere.

    Args:
        study: Optuna's.
        folder: of the search.
        base: settings that nothing is drawn of.
        space: what draws the others.
        trials: how many are to come to an end.
        progress: tell a line for each.
    """

    def __init__(
        self,
        study: "Study",
        folder: Path,
        base: TrainConfig,
        space: Callable[[Any], Mapping[str, Any]],
        trials: int,
        progress: bool,
    ) -> None:
        self.study, self.base, self.trials = study, base, trials
        self._folder, self._space, self._progress = folder, space, progress
        self._begun: dict[int, float] = {}

    @property
    def left(self) -> int:
        """Trials that are still to come to an end."""
        return self.trials - len(ended(self.study))

    def in_turn(self) -> None:
        """Train one trial after the other, until there are enough or a signal stops them.

        Raises:
            UserError: the first trials have all failed.
        """
        while self.left > 0:
            trial, config = self.draw()
            try:
                came, why = train_trial(config, partial(self.hopeless, trial)), ""
            except UserError as error:
                came, why = Came(None, "fail"), str(error)
            self.tell(trial, came, why)
            if came.how == "stopped":
                return

    def draw(self) -> "tuple[Trial, TrainConfig]":
        """A trial and its settings.

        Raises:
            UserError: the first trials have all failed: their settings can not be.
        """
        while True:
            trial = self.study.ask()
            self._begun[trial.number] = time.monotonic()
            try:
                config = with_settings(self.base, self._space(trial))
                return trial, replace(config, run=str(self._folder / f"trial-{trial.number:04d}"))
            except UserError as error:
                self.tell(trial, Came(None, "fail"), str(error))

    def hopeless(self, trial: "Trial", look: int, value: float) -> bool:
        """Report a trial's return; whether it is to be ended early."""
        trial.report(value, look)
        return trial.should_prune()

    def tell(self, trial: "Trial", came: Came, why: str = "") -> None:
        """Tell the study what a trial has come to; one that was stopped is left open, and closed by the next call.

        Args:
            trial: as `draw` gave it.
            came: to what.
            why: it failed.

        Raises:
            UserError: nothing has ever come to an end, so it is no matter of the numbers; `why` says of what.
        """
        if came.how == "stopped":
            return
        import optuna

        if why:
            trial.set_user_attr("failed", why)
        state = optuna.trial.TrialState[came.how.upper()]
        self.study.tell(trial, came.value if came.how == "complete" else None, state)
        if why and not ended(self.study) and trial.number >= FREE:
            raise UserError(why)
        if self._progress:
            shown = "no return" if came.value is None else f"return {came.value:,.1f}"
            seconds = time.monotonic() - self._begun[trial.number]
            say(f"trial {trial.number}: {came.how}, {shown}, {seconds:.0f} s, {self.left} left")


def ended(study: "Study") -> list[Any]:
    """Trials of a study that came to an end, or were ended early."""
    return [trial for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
