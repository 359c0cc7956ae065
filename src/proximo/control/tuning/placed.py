"""The trials of a search as jobs of a Ray cluster, which places them."""

import tomllib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proximo.control.config import TrainConfig
from proximo.control.tuning.trials import Came, Search, train_trial
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, to_toml
from proximo.scale.jobs import Say, run_jobs
from proximo.scale.stopping import Stops, on_signal

if TYPE_CHECKING:
    from optuna import Trial

PRUNE, STOP = "prune", "stop"
"""What a trial is answered."""


def search_placed(search: Search, *, restarts: int = 0) -> None:
    """Train a search's trials on a Ray cluster, until there are enough or a signal stops them.

    Args:
        search: its folder lies on a disk that every machine of the cluster sees; its study is read here alone.
        restarts: how often a trial is started anew, from its last checkpoint, where its worker was lost.

    Raises:
        UserError: the first trials have all failed, or Ray is not there.
    """
    running, told, stops = dict[str, "Trial"](), dict[str, int](), Stops()

    def following() -> tuple[str, Any] | None:
        if stops.first or len(running) >= search.left:
            return None
        trial, config = search.draw()
        config = replace(config, run=str(Path.cwd() / config.run))
        running[name := Path(config.run).name] = trial
        return name, to_toml(config)

    def heard(name: str, word: Any) -> str | None:
        if stops.first or name not in running:
            return STOP
        if word is None or told.get(name, 0) >= word[0]:  # one that was restarted says some again
            return None
        told[name] = word[0]
        return PRUNE if search.hopeless(running[name], *word) else None

    def ended(name: str, what: Any, lost: str) -> None:
        came, why = (Came(*what[:2]), what[2]) if what else (Came(None, "fail"), lost)
        search.tell(running.pop(name), came, why)

    gpus = search.base.device != "cpu"
    run_jobs(train_here, following, heard, ended, on_signal(stops), restarts=restarts, gpus=gpus)


def train_here(told: str, say: Say) -> tuple[float | None, str, str]:
    """What the worker of a trial does: what `Came` holds, and why it failed.

    Args:
        told: its settings, as TOML.
        say: tells the launcher of looks, and is answered.
    """
    config = from_mapping(TrainConfig, tomllib.loads(told), where="the settings of this trial")
    try:
        came = train_trial(
            config, lambda *seen: say(list(seen)) == PRUNE, fresh=say.begun == 1, stops=lambda: say.answered() == STOP
        )
    except UserError as error:
        return None, "fail", str(error)
    return *came, ""
