"""A search of `proximo tune` on the page: its trials, and which settings mattered."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from proximo.control import tuning
from proximo.errors import UserError
from proximo.views.explain.hover import text_of_setting
from proximo.views.seen import Seen, read_runs

if TYPE_CHECKING:
    from optuna import Study

BEST = 5
"""Trials whose runs are drawn."""
TEXTS = {
    "importance": (
        "what mattered",
        "Share of each setting in what tells the better half of the trials from all (PED-ANOVA, Watanabe et al. 2023): "
        "a long bar is worth tuning. A trial that was ended early counts by how it stood then. Of 20 trials the "
        "longest is the right one in two searches of three, and where no setting matters one still has more than half "
        "in one search of nine.",
    ),
    "trials": (
        "trials",
        "Return that each trial came to, the last 100 episodes of its training; crosses were ended early, the line is "
        "the best so far.",
    ),
    "drawn": ("value and return", "Each trial's value of this setting, and the return that it came to."),
}
UNITS = {
    "learning_rate": "step size of Adam",
    "update.epochs": "passes over a rollout",
    "update.clip": "greatest |ratio - 1|",
    "update.max_grad_norm": "norm of the gradient",
    "update.entropy_coefficient": "loss per nat",
    "update.minibatch_size": "samples",
    "rollout_length": "steps",
    "1 - gamma": "per step",
    "1 - lam": "per step",
}
"""Of what `tune` draws."""
_FINITE = 1e300


def is_study(folder: Path) -> bool:
    """Whether a folder holds a search."""
    return (folder / tuning.FILE).is_file()


def best_runs(folder: Path) -> list[Seen]:
    """The runs of the best trials, the best first.

    Raises:
        UserError: no trial has come to an end, or none of their runs is there.
    """
    whole = [trial for trial in _study(folder).trials if trial.state.name == "COMPLETE"]
    ordered = sorted(whole, key=lambda trial: -float(trial.value or 0.0))
    runs = [folder / f"trial-{trial.number:04d}" for trial in ordered]
    there = [run for run in runs if (run / "config.toml").is_file()]
    if not there:
        raise UserError(f"no trial in {folder} has come to an end, or their runs are gone: go on with proximo tune")
    return read_runs(there[:BEST])


def put_in(data: dict[str, Any], folder: Path) -> None:
    """Put a search's figures into a page's data.

    Args:
        data: of the page of its best runs.
        folder: of the search.
    """
    study = _study(folder)
    trials = [_trial(trial) for trial in study.trials if trial.state.name in ("COMPLETE", "PRUNED")]
    trials = [trial for trial in trials if trial["value"] is not None]
    names = list(dict.fromkeys(name for trial in trials for name in trial["drawn"]))
    importance = tuning.importance_of(study)
    logs = {name for trial in study.trials for name, law in trial.distributions.items() if getattr(law, "log", False)}
    data["title"] = f"search in {folder.resolve().name}"
    data["study"] = {
        "trials": trials,
        "importance": [[name, round(importance[name], 4)] for name in sorted(importance, key=importance.__getitem__)],
        "settings": [{"name": name, "log": name in logs, "unit": UNITS.get(name, "")} for name in names],
    }
    for name, (label, sentence) in TEXTS.items():
        data["texts"][name] = {"label": label, "unit": "", "sentence": sentence, "log": False}
    for name in names:
        said = text_of_setting(name.removeprefix("1 - "), frozenset({"control"}))
        data["texts"][f"drawn {name}"] = data["texts"]["drawn"] | {"sentence": f"{TEXTS['drawn'][1]} {said}".strip()}
    if not importance:
        data["notes"].append(
            f"What mattered is left out: it takes {tuning.FEWEST} trials, and there are {len(trials)} so far. Below "
            "stand what each trial came to, and each setting against the return."
        )


def _study(folder: Path) -> "Study":
    try:
        import optuna
    except ImportError:
        raise UserError("a search is read with a package that is missing: pip install 'proximo[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = (folder / tuning.FILE).resolve()
    try:
        return optuna.load_study(study_name=tuning.NAME, storage=f"sqlite:///{file}")
    except Exception as error:  # of SQLite, SQLAlchemy or Optuna
        raise UserError(f"{file} is no search of proximo tune, or is damaged: restore it") from error


def _trial(trial: Any) -> dict[str, Any]:
    """What a trial came to; one that was ended early has its last look."""
    value = trial.value
    if trial.state.name == "PRUNED":
        value = trial.intermediate_values[max(trial.intermediate_values)] if trial.intermediate_values else None
    known = value is not None and abs(value) < _FINITE
    drawn = {name: float(f"{x:.5g}") if isinstance(x, float) else x for name, x in trial.params.items()}
    shown = float(f"{value:.5g}") if known else None
    return {"number": trial.number, "value": shown, "whole": trial.state.name == "COMPLETE", "drawn": drawn}
