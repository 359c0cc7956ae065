"""Trackers of others: the metrics of a run under the same names in wandb, trackio or MLflow."""

import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from numbers import Real
from pathlib import Path
from secrets import token_hex
from typing import Any

from proximo.errors import FOREIGN, UserError, nearest
from proximo.runs.config.toml import flat, read_toml
from proximo.runs.plugins import on_one_line
from proximo.runs.session.callbacks import Callback

PACKAGES = {"wandb": "wandb", "trackio": "trackio", "mlflow": "mlflow-skinny"}
"""What is installed for each tracker."""


class Tracker(Callback):
    """A callback that logs a run to a tracker; a resumed run goes on in the tracker's own run.

    Where it logs to is the tracker's own matter: `WANDB_MODE=offline`, `TRACKIO_DIR`, `MLFLOW_TRACKING_URI`.

    Args:
        name: wandb, trackio or mlflow.
        project: under which the tracker keeps its runs.

    Raises:
        UserError: there is no such tracker, or it is not installed.
    """

    def __init__(self, name: str, project: str = "proximo") -> None:
        if name not in PACKAGES:
            likely = nearest(name, PACKAGES) or " or ".join(PACKAGES)
            raise UserError(f"there is no tracker {name!r}: did you mean {likely}?")
        if find_spec(name) is None:
            raise UserError(f"tracker {name} is not installed: `pip install {PACKAGES[name]}`")
        self.name, self.project = name, project
        self._id, self._step = "", -1
        self._log: Any = None
        self._close: Any = None

    def prepare(self) -> None:
        """Make what several trainings that begin at once would each make, and fail: MLflow's tables and experiment.

        Raises:
            UserError: the tracker can not be reached, or refuses.
        """
        if self.name == "mlflow":
            with self._asked():
                self._experiment(import_module(self.name).MlflowClient())

    def start(self, trainer: Any) -> None:
        """Open the tracker's run, with the run's settings.

        Raises:
            UserError: the tracker can not be reached, or refuses.
        """
        settings = flat(read_toml(trainer.folder / "config.toml"))
        with self._asked():
            self._module = import_module(self.name)
            getattr(self, f"_start_{self.name}")(trainer.folder, settings)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        try:
            with redirect_stdout(sys.stderr):  # standard output is for results
                yield
        except FOREIGN as error:
            raise UserError(f"tracker {self.name} can not be used: {on_one_line(error)}") from error

    def iteration(self, trainer: Any, metrics: dict[str, Any]) -> None:
        """Log the numbers of an iteration, at its step; what was logged before a kill is not logged twice."""
        if self._log is None or trainer.step <= self._step:
            return
        numbers = {name: float(x) for name, x in metrics.items() if isinstance(x, Real) and not isinstance(x, bool)}
        numbers.pop("step", None)
        try:
            self._log(numbers, step=trainer.step)
            self._step = trainer.step
        except FOREIGN as error:  # a server that is gone for a while must not end a training
            warnings.warn(f"tracker {self.name} misses step {trainer.step}: {on_one_line(error)}", stacklevel=2)

    def finish(self, trainer: Any, results: Mapping[str, Any]) -> None:
        """Mark the tracker's run as finished; wandb and trackio do that when it is closed."""
        if self.name == "mlflow" and self._close is not None:
            self._close()

    def close(self) -> None:
        """Close the tracker's run; of a training that was stopped too."""
        if self.name != "mlflow" and self._close is not None:
            with redirect_stdout(sys.stderr):
                self._close()
        self._close = None

    def state(self) -> dict[str, Any]:
        """Name of the tracker's run, and the last step that it has."""
        return {"tracker": self.name, "id": self._id, "step": self._step} if self._id else {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on in that run; what another tracker has kept is not ours."""
        if state.get("tracker") == self.name:
            self._id, self._step = str(state["id"]), int(state["step"])

    def _start_wandb(self, folder: Path, settings: dict[str, Any]) -> None:
        run = self._module.init(
            project=os.environ.get("WANDB_PROJECT") or self.project,
            name=name_of(folder),
            id=self._id or None,
            resume="allow",
            dir=str(folder),
            config=settings,
            settings=self._module.Settings(console="off", silent=True),
        )
        self._id, self._log, self._close = run.id, run.log, run.finish

    def _start_trackio(self, folder: Path, settings: dict[str, Any]) -> None:
        self._id = self._id or f"{name_of(folder)}-{token_hex(4)}"  # its runs are known by their names
        self._module.init(project=self.project, name=self._id, resume="allow", config=settings)
        self._log, self._close = self._module.log, self._module.finish

    def _start_mlflow(self, folder: Path, settings: dict[str, Any]) -> None:
        # By a client: the module's own run is one for the whole process, and a stopped run would be left open in it.
        client, entities = self._module.MlflowClient(), self._module.entities
        if not self._id:
            self._id = client.create_run(self._experiment(client), run_name=name_of(folder)).info.run_id
            client.log_batch(self._id, params=[entities.Param(name, str(value)) for name, value in settings.items()])

        def log(numbers: Mapping[str, float], step: int) -> None:
            now = int(1000 * time.time())
            client.log_batch(self._id, [entities.Metric(name, x, now, step) for name, x in numbers.items()])

        self._log, self._close = log, lambda: client.set_terminated(self._id)

    def _experiment(self, client: Any) -> str:
        found = client.get_experiment_by_name(self.project)
        return str(found.experiment_id if found else client.create_experiment(self.project))


def name_of(folder: Path) -> str:
    """A run's name among others: its folder's, with its parent's where that says only which seed or stage it is.

    >>> name_of(Path("runs/pole/seed-0")), name_of(Path("runs/movies/ppo")), name_of(Path("runs/cheetah"))
    ('pole-seed-0', 'movies-ppo', 'cheetah')
    """
    whole = folder.absolute()
    return f"{whole.parent.name}-{whole.name}" if re.fullmatch(r"seed--?\d+|ppo", whole.name) else whole.name
