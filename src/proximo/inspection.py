"""A run on disk, asked: its numbers, its health, one of its updates again, and whether it resumes exactly.

Each function is a verb of the command line, for notebooks and scripts; whose run it is decides which half answers.
"""

from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proximo.errors import UserError
from proximo.runs.config.toml import from_mapping, read_toml
from proximo.runs.storage.folder import find_run
from proximo.runs.storage.metrics import read_metrics

if TYPE_CHECKING:
    from proximo.control.check.report import Examination
    from proximo.control.environments import Source
    from proximo.runs.doctor import Report
    from proximo.runs.replay.entry import Kept
    from proximo.runs.replay.report import Replay, World
    from proximo.runs.resume_check import Verification

Backend = Literal["auto", "envpool", "gymnasium", "subprocess"]
"""Backend that steps an environment; auto chooses."""


def evaluate(
    run: str | PathLike[str],
    episodes: int = 20,
    *,
    seed: int | None = None,
    episode_limit: int | None = None,
    against: str | PathLike[str] | None = None,
) -> dict[str, Any]:
    """Run episodes with the policies of a control run (`proximo.language.compare` is for language runs).

    Args:
        run: folder of the run, or what `proximo.train` gave.
        episodes: for each of the three numbers.
        seed: of the episodes; None takes one that neither training nor its own evaluations have used.
        episode_limit: steps after which an episode is cut; None takes the run's own.
        against: run whose policy plays the other seats of a game; None is a random player.

    Returns:
        `final_deterministic`, `final_sampled` and `best_checkpoint`, mean returns, each also with `_std` and `_task`;
        `returns`, all of them by name; `last_100_training_return`, `seed`, `steps`. Of a game also `NAME_games`, the
        shares that were won, drawn and lost.

    Raises:
        UserError: there is no such run, or its environment can not be made.
    """
    from proximo.control.evaluation.results import evaluate_run

    _refuse_language(Path(run))
    return evaluate_run(Path(run), episodes, seed, episode_limit, None if against is None else Path(against))


def _refuse_language(folder: Path) -> None:
    """Name what evaluates a language run, whose folder, or that of its stages, was given.

    Raises:
        UserError: it was.
    """
    stages = ("sft", "reward", "judge", "ppo")
    inner = [folder / stage / "config.toml" for stage in stages] if not (folder / "config.toml").is_file() else []
    file = next((file for file in (folder / "config.toml", *inner) if file.is_file()), None)
    if file is not None and read_toml(file).get("kind") in ("language", *stages):
        raise UserError(
            f"{folder} is of a language model, which a judge evaluates: use `proximo rlhf evaluate` (from Python: "
            "proximo.language.compare)"
        )


def diagnose(
    what: "str | PathLike[str] | Source",
    *,
    seed: int = 0,
    backend: Backend = "auto",
) -> "Report | Examination":
    """Say what is wrong with a run, or with an environment under random actions, and what to change first.

    Args:
        what: folder of a run (control or language), or an environment as `proximo.train` takes it.
        seed: of an environment and of the random actions.
        backend: what steps an environment.

    Returns:
        Findings with their colours: `health` is the worst colour, `plain()` the content for JSON, `str()` the screen.

    Raises:
        UserError: there is no such folder or environment.
    """
    folder = Path(what) if isinstance(what, str | PathLike) else None
    if folder is not None and folder.is_dir():
        from proximo.control import doctor_rules as control
        from proximo.language import doctor_rules as language
        from proximo.runs.doctor import examine_run

        # `proximo rlhf all` keeps its PPO run in a folder of its own.
        inner = folder / "ppo"
        run = inner if not (folder / "config.toml").is_file() and inner.is_dir() else folder
        return examine_run(run, {"control": control.KIND, "language": language.KIND})
    from proximo.control.check.report import examine
    from proximo.control.environments import UnknownEnvironmentError

    source: Any = str(what) if isinstance(what, Path) else what
    try:
        return examine(source, seed=seed, backend=backend)
    except UnknownEnvironmentError as error:
        raise UserError(f"there is no folder {what} and {error}") from error


def replay(run: str | PathLike[str], iteration: int | None = None, change: str | None = None) -> "Replay":
    """Do one of a run's last updates again.

    Args:
        run: folder of a control run, of a language run, or of all stages of one.
        iteration: counted from 0; None takes the newest that is kept.
        change: `KEY=VALUE`, one setting to change; None changes nothing.

    Raises:
        UserError: there is no such run or update, or the setting can not be changed.
    """
    from proximo.runs.replay.entry import read
    from proximo.runs.replay.report import replay as again

    kept = read(find_run(Path(run)) / "replay")
    entry = kept.choose(iteration)
    with ExitStack() as stack:
        return again(kept, entry, _world(kept, stack), change)


def _world(kept: "Kept", stack: ExitStack) -> "World":
    if kept.run.get("kind") == "control":
        from proximo.control.training.replay import replay_world

        return replay_world(kept, stack)
    from proximo.language.ppo.replay import replay_world as language_world

    return language_world(kept)


def verify_resume(run: str | PathLike[str], iterations: int | None = None) -> "Verification":
    """Check that a run with these settings resumes bit for bit: trained through, stopped half-way, and killed.

    Args:
        run: folder of a control run, of a language run, or of all stages of one; it is only read.
        iterations: before the stop, and as many after it; None takes 2 of a control run, 1 of a language run.

    Raises:
        UserError: there is no such run, or it can not be trained.
    """
    if iterations is not None and iterations < 1:
        raise UserError(f"iterations = {iterations} must be at least 1")
    folder = find_run(Path(run))
    file = folder / "config.toml"
    settings = read_toml(file)
    if settings.get("kind") == "control":
        from proximo.control.config import TrainConfig
        from proximo.control.verify import verify_control

        return verify_control(from_mapping(TrainConfig, settings, where=str(file)), iterations or 2)
    if settings.get("kind") == "language":
        from proximo.language.ppo.verify import verify_language
        from proximo.language.ppo_config import PPOConfig

        return verify_language(from_mapping(PPOConfig, settings, where=str(file)), iterations or 1)
    raise UserError(f"{folder} is no run of proximo train or proximo rlhf ppo: give the folder of one")


def metrics(run: str | PathLike[str]) -> list[dict[str, Any]]:
    """All rows of a run's metrics, one per iteration: `step`, `time` (seconds) and what was measured, by name.

    Args:
        run: folder of a control run, of a language run, or of all stages of one (its PPO run).

    Raises:
        UserError: there is no such run, or its metrics are damaged.
    """
    return read_metrics(find_run(Path(run)) / "metrics.jsonl")
