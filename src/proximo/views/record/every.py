"""Videos of a control run's policy while it trains."""

import warnings
from copy import deepcopy
from pathlib import Path
from typing import Any

from proximo.control import seeds
from proximo.control.environments import VectorEnvironment
from proximo.control.loading import LoadedPolicy
from proximo.control.trainer import Trainer
from proximo.errors import UserError, require_whole
from proximo.runs.session.callbacks import Callback
from proximo.views.record.drawing import frames
from proximo.views.record.episode import drawing_environments, picture, prefer_egl
from proximo.views.record.files import check_packages, write
from proximo.views.record.record import filmed


class VideoEvery(Callback):
    """A callback that films an episode of the policy as it is, each time so many steps are done: RUN/videos/step-N.mp4.

    All films are of one seed, which training never saw, so that what was learnt is what differs. Actions are the most
    probable ones; the training itself is not touched.

    Args:
        steps: environment steps between two films; it films after the iteration that passes a multiple of them.
        limit: steps after which an episode is cut.
        width: of the picture, in pixels.

    Raises:
        UserError: a number can not mean anything, or a package is missing.
    """

    def __init__(self, steps: int, *, limit: int = 200, width: int = 240) -> None:
        require_whole("steps", steps, 1)
        require_whole("limit", limit, 1)
        require_whole("width", width, 64)
        check_packages(".mp4")
        prefer_egl()  # before a training's own environments import MuJoCo
        self.steps, self.limit, self.width = steps, limit, width
        self._environments: VectorEnvironment | None = None
        self._last = 0

    def start(self, trainer: Any) -> None:
        """Make an environment that draws, and draw once.

        Raises:
            UserError: the training is of no environment that can be made again and drawn.
        """
        if not isinstance(trainer, Trainer):
            raise UserError("videos are of control runs: a language run keeps sample texts without being asked")
        self._last = trainer.step
        self._environments = drawing_environments(trainer.config, self.width)
        self._environments.reset([0])
        picture(self._environments, self.width)

    def iteration(self, trainer: Any, metrics: dict[str, Any]) -> None:
        """Film, if it is time to; an episode that can not be filmed or stored ends no training."""
        before, self._last = self._last, trainer.step
        if before // self.steps == self._last // self.steps:
            return
        try:
            self._film(trainer)
        except UserError as error:
            warnings.warn(f"no video at {self._last:,} steps: {error}", stacklevel=2)

    def _film(self, trainer: Any) -> None:
        assert self._environments is not None
        policy = LoadedPolicy(deepcopy(trainer.policy.policy).cpu())
        seed = seeds.derive(trainer.config.seed, seeds.FRESH, 0, 1)[0]
        title = f"{self._last:,} steps"
        episode = filmed(self._environments, policy, title, trainer.config, seed, self.limit, self.width)
        write(frames([episode]), video_at(trainer.folder, self._last), self._environments.frame_rate)

    def close(self) -> None:
        """Close the environment that draws."""
        if self._environments is not None:
            self._environments.close()
            self._environments = None


def video_at(folder: Path, step: int) -> Path:
    """Where the film after so many steps lies."""
    return folder / "videos" / f"step-{step:09d}.mp4"
