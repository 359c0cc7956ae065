"""The verbs that make files of a run: each is a function of `proximo.views`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import command


@dataclass(frozen=True)
class Record:
    """Film an episode of a control run: its best policy beside its latest, with reward and value below."""

    run: tyro.conf.Positional[Path]
    """Folder of the run, finished or not."""
    out: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """File of the video, `.mp4` or `.gif` (default: RUN/videos/SEED.mp4)."""
    policy: Literal["both", "best", "latest"] = "both"
    """Whose episode is filmed."""
    seed: Annotated[int | None, SAYS_ITS_DEFAULT] = None
    """Seed of the episode (default: one that training never saw)."""
    limit: int = 1000
    """Steps after which the episode is cut."""
    width: int = 320
    """Width of each picture, in pixels."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print where the video is."""
        from proximo.views.record import record

        policies = ("best", "latest") if self.policy == "both" else (self.policy,)
        file = record(self.run, self.out, policies=policies, seed=self.seed, limit=self.limit, width=self.width)
        print(json.dumps({"video": str(file)}) if self.json else f"the video is {file}")
        return 0


VERBS: dict[str, Callable[[list[str]], int]] = {"record": command(Record, "record")}
