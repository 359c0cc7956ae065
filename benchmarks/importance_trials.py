"""How many whole trials PED-ANOVA needs before it says which setting mattered: searches whose answer is planted.

    python benchmarks/importance_trials.py               # 200 searches of 50 trials

Seven settings as in `proximo tune --space usual`, drawn as `tune` draws them. In `planted` the learning rate decides
the return, gamma has a fifth of its effect and the others none; in `nothing` none has any. Noise has a tenth of the
learning rate's effect. Beside searches of whole trials there are such in which trials are ended early as `tune` does,
when their return, which rises to its end with noise, is below the median of the others (`early`). Of each number of
trials: how often the learning rate is first (in `nothing` chance is 1 of 7), and how often some setting has more than
half of all importance, a strong claim that in `nothing` is a false one.
"""

import sys

import numpy as np
import optuna

from proximo.control.tuning.search import importance_of
from proximo.control.tuning.spaces import SPACES
from proximo.control.tuning.trials import FREE, LOOKS

COUNTS, QUANTILES, LENGTH = (5, 7, 10, 15, 20, 30, 50), (0.1, 0.25, 0.5), 50


def searched(seed: int, effect: float, *, early: bool = False) -> list:
    """The trials of one search; some are ended early, if any are."""
    noise = np.random.default_rng(seed)
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=FREE)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=FREE, n_warmup_steps=FREE)
    study = optuna.create_study(sampler=sampler, pruner=pruner, direction="maximize")
    for _ in range(LENGTH):
        trial = study.ask()
        drawn = SPACES["usual"](trial)
        rate, ahead = np.log10(drawn["learning_rate"] / 5e-4), np.log10((1 - drawn["gamma"]) / 0.01)
        comes_to = -effect * (rate**2 + 0.2 * ahead**2) + noise.normal(scale=0.1)
        if early and hopeless(trial, comes_to, noise):
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(trial, comes_to)
    return study.trials


def hopeless(trial: optuna.Trial, comes_to: float, noise: np.random.Generator) -> bool:
    """Whether the pruner ends a trial early; its return rises from -2 to `comes_to`, with noise."""
    for look in range(1, LOOKS):
        trial.report(-2 + (comes_to + 2) * look / LOOKS + noise.normal(scale=0.05), look)
        if trial.should_prune():
            return True
    return False


def by_standing(trials: list) -> dict[str, float]:
    """The importance of each setting, as `tune` tells it; none of too few trials."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    return importance_of(study)


def shares(trials: list, quantile: float) -> dict[str, float]:
    """The importance of each setting."""
    study = optuna.create_study(direction="maximize")
    study.add_trials(trials)
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def main(searches: int) -> None:
    """Print the table."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for name, effect in (("planted", 1.0), ("nothing", 0.0)):
        all_trials = [searched(seed, effect) for seed in range(searches)]
        for quantile in QUANTILES:
            for count in COUNTS:
                found = [shares(trials[:count], quantile) for trials in all_trials]
                first = np.mean([max(x, key=x.__getitem__) == "learning_rate" for x in found])
                half = np.mean([max(x.values()) > 0.5 for x in found])
                print(
                    f"{name}, best {quantile:.0%} of {count} trials: first {first:.0%}, more than half {half:.0%}",
                    flush=True,
                )
    for name, effect in (("planted", 1.0), ("nothing", 0.0)):
        early = [searched(seed, effect, early=True) for seed in range(searches)]
        whole = np.mean([sum(trial.state.name == "COMPLETE" for trial in trials[:30]) for trials in early])
        for count in (20, 30, 50):
            found = [by_standing(trials[:count]) for trials in early]
            first = np.mean([max(x, key=x.__getitem__) == "learning_rate" for x in found])
            half = np.mean([max(x.values()) > 0.5 for x in found])
            print(f"{name}, early, {count} trials: first {first:.0%}, more than half {half:.0%}", flush=True)
        print(f"{name}, early: of 30 trials {whole:.1f} are whole", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
