"""Options of one call, which are no settings of the run; consent to a deletion; the exit code."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from proximo.cli.forms import SAYS_ITS_DEFAULT, Flag
from proximo.cli.options import without
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping
from proximo.runs.console.progress import Mode
from proximo.runs.session.callbacks import Callback
from proximo.runs.session.opening import Call
from proximo.runs.session.trackers import Tracker
from proximo.scale.launched import restarted, within


@dataclass(frozen=True)
class Algorithm:
    """By what a policy is trained."""

    algorithm: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Name of an algorithm (control: ppo, ppo-penalty, a2c, reinforce, trpo; language: ppo, ppo-penalty, rloo, grpo),
    or `module:Name` of a class of yours derived from proximo.algorithms.PPO. Its settings are options under --update
    (default: ppo)."""

    def of(self, base: Any) -> Any:
        """Settings of a run with this algorithm, which keeps those numbers of the base's that it has too.

        Raises:
            UserError: there is no such algorithm, or it is not for this kind of run.
        """
        if not self.algorithm:
            return base
        named = {"update": {UpdateSettings.chosen_by: self.algorithm}}
        return from_mapping(type(base), named, where="--algorithm", base=base)


def lacking(update: UpdateSettings) -> dict[str, str]:
    """Options that an algorithm does not have, and why, as `foreign_options.answered` reads them."""
    return {f"update-{name.replace('_', '-')}": f"nothing: {update.refusal(name)}" for name in update.lacks}


@dataclass(frozen=True)
class CallOptions:
    """Of this call only; the run's config.toml does not hold them."""

    fresh: Flag = False
    """Delete the run in the folder and start over, after a yes at the terminal."""
    yes: Flag = False
    """With --fresh: delete without asking."""
    allow_change: Flag = False
    """Resume with settings that differ from the folder's; config.toml records the change."""
    quiet: Flag = False
    """Show no progress."""
    json: Flag = False
    """Print one JSON object instead of text."""

    @property
    def mode(self) -> Mode:
        """How progress is shown."""
        return "quiet" if self.quiet else "auto"

    def open(self, folder: Path, stop_at: int | None = None) -> Call:
        """How the run in `folder` begins; with --fresh, after the user's consent to its deletion."""
        fresh = self.fresh and not restarted()  # or what was done before the loss of a rank would be deleted
        if fresh and not within():
            consent(folder, self.yes)
        return Call(stop_at, fresh=fresh, allow_change=self.allow_change)


@dataclass(frozen=True)
class RunOptions(CallOptions):
    """Of this call only; the run's config.toml does not hold them."""

    stop_at: int | None = None
    """Step (response of a language model) at which to stop with a checkpoint; the same command without it resumes."""

    def __post_init__(self) -> None:
        """Refuse a step before the first.

        Raises:
            ValueError: `stop_at` is negative.
        """
        if self.stop_at is not None and self.stop_at < 0:
            raise ValueError(f"stop_at = {self.stop_at} must be at least 0")

    def open(self, folder: Path, stop_at: int | None = None) -> Call:
        """See `CallOptions.open`."""
        return super().open(folder, self.stop_at)


Tracked = Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")]


@dataclass(frozen=True)
class RankOptions(RunOptions):
    """Of this call only; the run's config.toml does not hold them."""

    ranks: int = 1
    """Train one policy by this many processes on this machine, each with its share of the environments or prompts,
    and a GPU of its own where there are any. For several machines see docs/scaling.md."""
    launch: Literal["torchrun", "ray"] = "torchrun"
    """What starts several processes: torchrun for --ranks, or Ray Train for --workers, on the cluster of RAY_ADDRESS or
    one of its own on this machine."""
    workers: int = 0
    """With --launch ray: workers of the cluster that train one policy, as --ranks does on this machine."""
    restarts: int = 0
    """With --ranks or --workers: how often all of them start anew from the last checkpoint where one was lost."""

    def __post_init__(self) -> None:
        """Refuse ranks that there can not be.

        Raises:
            ValueError: there are fewer than one, or they are told twice how many they are.
        """
        super().__post_init__()
        if self.ranks < 1 or self.restarts < 0:
            raise ValueError(f"ranks = {self.ranks} must be at least 1, and restarts = {self.restarts} at least 0")
        if (self.workers > 0) != (self.launch == "ray" and not self.placed) or self.workers < 0:
            raise ValueError("--launch ray and --workers belong together: give both, as --launch ray --workers 4")
        if self.workers and self.ranks > 1:
            raise ValueError("--ranks starts processes by torchrun, and --workers by Ray: give one of them")
        if self.restarts and not self.several and not (self.placed and self.launch == "ray"):
            raise ValueError("--restarts is for several processes: give --ranks too")
        if self.several and within():
            raise ValueError(f"a launcher has started {os.environ['WORLD_SIZE']} ranks already: leave --ranks out")

    @property
    def placed(self) -> bool:
        """Whether a launcher has trainings of one process each to place."""
        return False

    @property
    def several(self) -> bool:
        """Whether this process is to start others."""
        return self.ranks > 1 or self.workers > 0

    def start(self, folder: Path, *command: str) -> int | None:
        """Start the ranks of a command and wait until they end: their exit code; None where one process is asked for.

        Args:
            folder: of the run.
            command: verb and arguments, those of this class among them.
        """
        if not self.several:
            return None
        given = without(command, ("ranks", "restarts", "launch", "workers"))
        if not self.workers:
            from proximo.scale.launch import run_ranks

            return run_ranks(self.ranks, given, restarts=self.restarts)
        from proximo.scale.launch import run_ray

        whole = Path.cwd() / folder
        place = [] if command[0] == "rlhf" else ["--run", str(whole)]  # a stage's --run is that of all stages
        given = without(given, ("run",)) + place if place else given
        return run_ray(self.workers, given, whole, restarts=self.restarts)


@dataclass(frozen=True)
class TrainOptions(RankOptions):
    """Of this call only; the run's config.toml does not hold them."""

    track: Tracked = ()
    """Log the metrics to these trackers too: wandb, trackio, mlflow, where they are installed."""

    video_every: int | None = None
    """Film an episode of the policy each time so many steps are done, as RUN/videos/step-N.mp4."""

    seeds: tuple[int, ...] = ()
    """Train once with each of these seeds, as --seeds 0 1 2 or 0..2, in the folders RUN/seed-0, RUN/seed-1...; with
    --launch ray each by a worker of the cluster, as many at once as it has CPUs or GPUs."""
    parallel: int = 1
    """With --seeds: how many train at once, each in a process of its own."""

    def __post_init__(self) -> None:
        """Refuse seeds and ranks together.

        Raises:
            ValueError: both are given.
        """
        if self.seeds and (self.ranks > 1 or self.workers > 0):
            raise ValueError(
                "--ranks and --workers train one seed together, and --seeds several seeds: give one of them"
            )
        super().__post_init__()
        if self.placed and self.launch == "ray" and self.parallel != 1:
            raise ValueError("the cluster of --launch ray says how many train at once: leave --parallel away")

    @property
    def placed(self) -> bool:
        """See `RankOptions.placed`."""
        return bool(self.seeds)


@dataclass(frozen=True)
class PPOOptions(RankOptions):
    """Of this call only; the run's config.toml does not hold them."""

    track: Tracked = ()
    """Log the metrics to these trackers too: wandb, trackio, mlflow, where they are installed."""

    override_preflight: Flag = False
    """Begin although a check before the first step failed."""


@dataclass(frozen=True)
class AllOptions(CallOptions):
    """Of this call only; the stages' config.toml do not hold them."""

    track: Tracked = ()
    """Log PPO's metrics to these trackers too: wandb, trackio, mlflow, where they are installed."""

    override_preflight: Flag = False
    """Begin PPO although a check before its first step failed."""


def consent(folder: Path, yes: bool) -> None:
    """Have the user confirm that the run in `folder`, if there is one, will be deleted.

    Args:
        folder: of the run.
        yes: `--yes` was given.

    Raises:
        UserError: the answer is no, or there is no terminal to ask at.
    """
    if yes or not (folder / "config.toml").exists():
        return
    if not sys.stdin.isatty():
        raise UserError(f"--fresh deletes the run in {folder}, and there is no terminal to ask at: add --yes")
    print(
        f"{folder} holds a run; delete it with all its checkpoints and start over? [yes/no] ", end="", file=sys.stderr
    )
    if input().strip().lower() not in ("y", "yes"):
        raise UserError(
            f"{folder} is left as it is: run without --fresh to resume, or choose another folder with --run"
        )


def require_values(typed: Sequence[str], **values: tuple[Any, ...]) -> None:
    """Refuse options of lists that were given without what they are for: they would change nothing.

    Args:
        typed: the command line.
        values: of the options, as they were read.

    Raises:
        UserError: one has none.
    """
    for name, value in values.items():
        if not value and f"--{name}" in typed:
            raise UserError(f"--{name} has no value: give one after it")


def exit_code(stopped: str | None) -> int:
    """0 for a run that ended or was told where to stop, 128 + its number for a signal."""
    return 128 + signal.Signals[stopped] if stopped is not None and stopped in signal.Signals.__members__ else 0


def trackers(names: Sequence[str]) -> list[Callback]:
    """What `--track` names.

    Raises:
        UserError: there is no such tracker, or it is not installed.
    """
    return [Tracker(name) for name in names]
