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


@dataclass(frozen=True)
class Export:
    """Write a run's policy for a program without Proximo, compared with the policy first.

    Normaliser, network, masks and bounds are inside; contract.json beside it says what goes in and what comes out.
    """

    run: tyro.conf.Positional[Path]
    """Folder of the run."""
    to: Literal["onnx", "torchscript", "numpy", "c", "transformers", "gguf"]
    """What is written: a file for onnxruntime, one for torch, or one Python file for NumPy alone, or C; of a
    language run a folder for transformers or a file for llama.cpp, with adapters merged."""
    out: Annotated[Path | None, SAYS_ITS_DEFAULT] = None
    """Folder to write (default: RUN/export/TARGET); an older export in it is replaced."""
    checkpoint: str = "final"
    """Which policy: final, best, or the name of a numbered checkpoint."""
    observations: int = 1000
    """Observations that export and policy are both shown; half are of the environment, half are not."""
    json: Flag = False
    """Print one JSON object instead of text."""

    def __call__(self) -> int:
        """Print where the export lies and how near it is."""
        from proximo.views.export.export import export

        made = export(self.run, self.to, self.out, checkpoint=self.checkpoint, observations=self.observations)
        if self.json:
            print(json.dumps({"path": str(made.path), **made.contract}))
            return 0
        names = ", ".join(sorted(file.name for file in made.path.iterdir()))
        print(f"{made.path}: {names} (the {made.checkpoint} policy)")
        print(f"compared with the policy on {made.observations:,} observations: largest error {made.max_error:.1e}")
        parity = made.contract["parity"]
        if "max_error_of_probabilities" in parity:
            print(f"probabilities of all choices: largest error {parity['max_error_of_probabilities']:.1e}")
        return 0


VERBS: dict[str, Callable[[list[str]], int]] = {
    "record": command(Record, "record"),
    "export": command(Export, "export"),
}
