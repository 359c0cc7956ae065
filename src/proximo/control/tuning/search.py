"""Trials of settings, each a run in a folder of its own; hopeless ones are ended early (median pruning)."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from proximo.control.config import TrainConfig
from proximo.control.environments import make_environments
from proximo.control.many.asking import require_launch
from proximo.control.trainer import Trainer
from proximo.control.tuning.spaces import SPACES, with_settings
from proximo.control.tuning.trials import FREE, LOOKS, Search, ended
from proximo.errors import UserError, nearest
from proximo.runs.config.toml import to_toml
from proximo.runs.storage.files import write_atomically
from proximo.scale.launched import require_one_process

if TYPE_CHECKING:
    from optuna import Study

FILE, NAME = "study.db", "proximo"
"""Where a search's study lies in its folder, and what Optuna calls it."""
FEWEST = 20
"""Trials, whole or ended early, before it is said what mattered: of ten whole ones the setting that decides is first in
57 % of searches."""
GOOD = 0.5
"""Share of the trials that count as good. Of the best tenth of 20 trials, Optuna's default, the setting that decides is
first in 26 % of searches, of the better half in 76 % (`benchmarks/importance_trials.py`)."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found."""

    path: Path
    """Folder: the study (`study.db`, SQLite), a run for each trial, and `best.toml`."""
    trials: int
    """That came to an end, or were ended early."""
    pruned: int
    best_return: float
    """Mean return of the last 100 episodes of the best trial's training."""
    best: Mapping[str, Any]
    """Its drawn numbers."""
    importance: Mapping[str, float]
    """Share of each number in what makes trials good (PED-ANOVA, Watanabe et al. 2023); empty of too few trials."""


def tune(
    environment: str,
    *,
    space: str = "usual",
    trials: int = 30,
    steps: int | None = None,
    preset: str = "tuned",
    seed: int = 0,
    run: str | PathLike[str] | None = None,
    launch: Literal["here", "ray"] = "here",
    restarts: int = 0,
    progress: bool = True,
    **settings: Any,
) -> Tuned:
    """Search for settings that learn a task better; the same call goes on with a search that was stopped.

    Numbers are drawn by a tree-structured Parzen estimator (Bergstra et al. 2011). A trial whose return is below the
    median of the others at the same step is ended early. The best becomes `best.toml`, a preset that says how it was
    found: `proximo train ENVIRONMENT --preset RUN/best.toml`. It was chosen among many by one seed, so train it with
    other seeds before you believe it.

    Args:
        environment: a task, or `module:function`.
        space: what is tried, one of `SPACES`.
        trials: how many in all.
        steps: environment steps of each (default: the preset's).
        preset: gives what is not tried.
        seed: of the trainings, and of the search.
        run: folder (default: runs/tune-ENVIRONMENT).
        launch: "here" trains one trial after the other; "ray" has each trained by a worker of the cluster of
            RAY_ADDRESS, as many at once as it has CPUs or GPUs.
        restarts: with a cluster, how often a worker that was lost is started anew, from its last checkpoint.
        progress: tell a line for each trial.
        settings: of all trials, as `proximo.train` takes them.

    Returns:
        The best trial, and where all lie.

    Raises:
        UserError: something you can mend; the message says what, where and how.
    """
    optuna = _optuna()
    if space not in SPACES:
        raise UserError(
            f"there is no search space {space!r}: did you mean {nearest(space, SPACES) or ', '.join(SPACES)}?"
        )
    if trials < 1:
        raise UserError(f"trials = {trials} must be at least 1")
    require_launch(launch, restarts)
    require_one_process("proximo.tune", "call it without torchrun, with launch='ray' for a cluster")
    if steps is not None:
        settings["steps"] = steps
    base = Trainer(environment, preset=preset, seed=seed, **settings).config
    _require_environment(base)
    folder = Path(run or f"runs/tune-{environment.replace('/', '_').replace(':', '_')}")
    folder.mkdir(parents=True, exist_ok=True)
    study = _study(optuna, folder, base, space, seed, together=launch == "ray")
    search = Search(study, folder, base, SPACES[space], trials, progress)
    if launch == "ray":
        from proximo.control.tuning.placed import search_placed

        search_placed(search, restarts=restarts)
    else:
        search.in_turn()
    return _told(optuna, study, folder, base, space)


def _require_environment(config: TrainConfig) -> None:
    """Refuse a task that there is not before anything is written.

    Raises:
        UserError: it can not be made.
    """
    source, keys = config.environment, config.visible
    make_environments(source, 1, backend=config.backend, options=config.options, observation_keys=keys).close()


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs a package that is not installed: `pip install 'proximo[tune]'`") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(optuna: Any, folder: Path, base: TrainConfig, space: str, seed: int, *, together: bool) -> "Study":
    """The folder's study; trials that a kill has left open are closed.

    Raises:
        UserError: the folder holds a search for something else.
    """
    storage = f"sqlite:///{(folder / FILE).resolve()}"
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FREE, n_warmup_steps=FREE)
    study = optuna.create_study(
        storage=storage, study_name=NAME, direction="maximize", pruner=pruner, load_if_exists=True
    )
    asked = {"settings": to_toml(replace(base, run="")), "space": space}
    before = study.user_attrs
    if before and {name: before.get(name) for name in asked} != asked:
        raise UserError(
            f"{folder} holds a search with other settings or another space: choose another folder with --run"
        )
    for name, value in asked.items():
        study.set_user_attr(name, value)
    for trial in study.trials:
        if not trial.state.is_finished():
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    # Of a search that goes on, other draws than those that were made before.
    study.sampler = optuna.samplers.TPESampler(
        seed=seed + 1000 * len(study.trials),
        n_startup_trials=FREE,
        constant_liar=together,  # or trials that train at once would be alike
    )
    return study


def _told(optuna: Any, study: "Study", folder: Path, base: TrainConfig, space: str) -> Tuned:
    """The best trial so far, also as a preset.

    Raises:
        UserError: none has come to an end.
    """
    known = ended(study)
    whole = [trial for trial in known if trial.state.name == "COMPLETE"]
    if not whole:
        raise UserError(
            f"no trial in {folder} has come to an end: give more steps, so that episodes end, or more trials"
        )
    best = max(whole, key=lambda trial: trial.value)
    drawn = SPACES[space](optuna.trial.FixedTrial(best.params))
    found = with_settings(base, drawn)
    source = (
        f"proximo tune {base.environment} --space {space}: trial {best.number}, the best of {len(known)} "
        f"({len(known) - len(whole)} ended early), {base.steps} steps each, seed {base.seed}, last-100 training return "
        f"{best.value:.1f}, {time.strftime('%Y-%m-%d')}"
    )
    own = ("kind", "environment", "preset", "run", "seed")
    lines = [line for line in to_toml(found).splitlines() if line.partition(" = ")[0] not in own]
    write_atomically(folder / "best.toml", "\n".join([f'source = "{source}"', *lines, ""]).encode())
    pruned = len(known) - len(whole)
    return Tuned(folder, len(known), pruned, float(best.value), drawn, importance_of(study))


def importance_of(study: "Study") -> dict[str, float]:
    """Share of each number in what tells the better half of the trials from all (PED-ANOVA); empty of fewer than
    `FEWEST` trials that came to an end or were ended early.

    Args:
        study: one of `tune`'s.
    """
    import optuna

    known = standings(study)
    if len(known) < FEWEST:
        return {}
    told = optuna.create_study(direction="maximize")
    for trial, standing in known:
        same = {"params": trial.params, "distributions": trial.distributions}
        told.add_trial(optuna.trial.create_trial(**same, value=standing))
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=GOOD)
    return dict(optuna.importance.get_param_importances(told, evaluator=evaluator))


def standings(study: "Study") -> list[tuple[Any, float]]:
    """Trials, and which share of the others each is ahead of at the last look that both have come to.

    Most trials of a search are ended early, so without them there would hardly ever be enough.
    """
    courses = [(trial, dict(trial.intermediate_values)) for trial in ended(study)]
    for trial, course in courses:
        if trial.state.name == "COMPLETE":
            course[LOOKS] = trial.value
    told = [(trial, course) for trial, course in courses if course]

    def ahead(course: Mapping[int, float], other: Mapping[int, float]) -> bool:
        look = max(course.keys() & other.keys(), default=None)
        return look is not None and course[look] > other[look]

    return [(trial, sum(ahead(course, other) for _, other in told) / len(told)) for trial, course in told]
