"""Records of runs, made by hand."""

from proximo.control import doctor_rules as control_rules
from proximo.language import doctor_rules as language_rules
from proximo.runs.doctor.record import Record
from proximo.runs.doctor.report import diagnose

COUNT = 40


UPDATE = {"epochs": 10, "clip": 0.2, "value_coefficient": 0.5, "entropy_coefficient": 0.0, "target_kl": "none"}


BONUS = {"entropy_coefficient": 0.5}


CONTROL = {"kind": "control", "gamma": 0.99, "learning_rate": "0.001 -> 0", "environments": 8, "update": UPDATE}


LANGUAGE = {
    "kind": "language",
    "prompts": "p",
    "learning_rate": 1e-4,
    "response_limit": 60,
    "missing_eos_floor": -1.0,
    "kl": {"coefficient": 0.05, "budget": "none"},
    "update": {**UPDATE, "value_coefficient": 0.1},
}


def row(i):
    """A sound iteration of a control run."""
    return {
        "step": 1000 * (i + 1),
        "time": float(i),
        "return": 10.0 + i,
        "episodes": 5 * (i + 1),
        "episode_length": 100.0,
        "episode_length_std": 10.0,
        "reward_mean": 0.5,
        "reward_std": 0.5,
        "truncations": 1,
        "truncations_compared": 1,
        "approx_kl": 0.01,
        "clip_fraction": 0.1,
        "gradient_steps": 40,
        "stopped_by_kl": 0,
        "entropy": 1.0,
        "explained_variance": 0.8,
        "return_std": 1.0,
        "return_rms": 2.0,
        "value_rms": 2.0,
        "ratio_deviation": 1e-6,
    }


def spoken(i):
    """A sound iteration of a language run."""
    return {
        "step": 64 * (i + 1),
        "time": float(i),
        "score": 0.05 * i,
        "score_std": 1.0,
        "kl": 0.1 * i,
        "kl_k3": 0.1 * i,
        "response_length": 20.0,
        "finished": 0.9,
        "duplicates": 0.0,
        "distinct_2": 0.8,
        "score_length_correlation": 0.1,
        **{name: row(i)[name] for name in ("approx_kl", "clip_fraction", "entropy", "explained_variance")},
        "gradient_steps": 8,
        "stopped_by_kl": 0,
        "return_std": 1.0,
        "return_rms": 2.0,
        "value_rms": 2.0,
    }


def control(changes=lambda i: {}, count=COUNT, **config):
    update = {**UPDATE, **config.pop("update", {})}
    rows = tuple({**row(i), **changes(i)} for i in range(count))
    return Record({**CONTROL, "update": update, **config}, control_rules.KIND, rows)


def language(changes=lambda i: {}, count=COUNT, evaluation=None, **config):
    rows = tuple({**spoken(i), **changes(i)} for i in range(count))
    return Record({**LANGUAGE, **config}, language_rules.KIND, rows, evaluation=evaluation or {})


def seen(record):
    return [(d.finding.code.number, d.finding.severity) for d in diagnose(record)]
