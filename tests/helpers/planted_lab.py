"""Rows of each experiment in which what it looks for is there, and rows in which all arms are the same."""

from math import log

from proximo.lab.advantage_errors import LAMBDAS, PERFECT
from proximo.lab.experiment import Experiment
from proximo.lab.experiments.baseline import AGAIN, JUDGED
from proximo.lab.experiments.bias_variance import LEARNT
from proximo.lab.experiments.cliff import WITHOUT
from proximo.lab.experiments.ratio import PLAIN

HOLDS = {
    "cliff": (True, True, False, False),
    "step-size": (True, True, False),
    "trust-region": (True, True, True, True, False),
    "baseline": (True, True, False),
    "ratio": (True, True, True, True, True, True, False),
    "bias-variance": (True, True, False, True, True, True, False),
    "reuse": (True, True, True, True, True, True, True, False),
    "reward-hacking": (True, True, True, True, False),
    "collapse": (True, True, True, True, False),
    "supervised-vs-rl": (True, True, True, False),
    "critic-or-group": (True, True, True, True, True, False),
    "details": (True, *[False] * 14),
}
"""Which claims these rows support, in their order, the control last."""


def _bias_variance(arm, holds):
    if not holds:
        return {"bias": [0.0] * len(LAMBDAS), "variance": [1.0] * len(LAMBDAS)}
    wrong = {PERFECT: 0.0, LEARNT: 4.0}.get(arm, 9.0)
    return {
        "bias": [wrong * (1 - lam) ** 2 for lam in LAMBDAS],
        "variance": [10 ** (6 * lam - 4.5) for lam in LAMBDAS],
    }


def _details(experiment, arm, holds):
    first = experiment.details[0]
    return {"start": 20.0, "score": 200.0 + 100.0 * holds * experiment.design[arm][first]}


def _ratio(arm, holds):
    strayed = (0.1 + 0.1 * (arm == PLAIN)) * holds
    return {
        "score": 0.5 + 0.4 * holds * (arm != PLAIN),
        "outside": [[0.1, 0.1], [0.1 + 0.4 * holds] * 2],
        "cut": [[0.1, 0.1], [0.1 + 0.3 * holds, 0.1]],
        "astray": [[0.0, 0.0], [strayed, strayed]],
        "missing": [0.0, 0.5 * holds],
    }


def _reuse(arm, holds):
    better = {"10 epochs": 0.6, "10 epochs, again": 0.6, "DQN, CartPole-v1": 0.9, "DQN, LunarLander-v3": 0.9}
    slow = 100.0 if holds and arm.startswith("DQN") else 1.0
    return {
        "score": better.get(arm, 0.4) if holds else 0.5,
        "kl": 0.5 if holds and arm == "30 epochs" else 0.01,
        "seconds_used": slow,
        "curve": [[1000, slow, 300.0]],
    }


def _reward_hacking(arm, holds):
    free, flawed = arm == "β = 0", arm == "flawed reward, β = 0"
    way = [0.2 * i for i in range(16)]
    peak = [d * (1.0 - 0.8 * log(d)) if d else 0.0 for d in way]
    return {
        "way": way,
        "judge": peak if holds and free else [0.1 * i for i in range(16)],
        "score": [0.1 * i for i in range(16)],
        "flaw": [0.0, 0.9 * holds * flawed],
        "best_of": {"way": [0.0, 1.0], "score": [0.0, 1.0], "judge": [0.0, 0.5]},
    }


def _collapse(arm, holds):
    without = holds and arm == "no clip"
    return {
        "factors": [1, 4],
        "kl": [0.1 + 0.9 * without] * 2,
        "score": [1.0 - without] * 2,
        "variety": [1.0 - 0.5 * without] * 2,
        "lost": [1.0 * without] * 2,
    }


def _supervised_vs_rl(arm, holds):
    rl = holds and arm == "PPO"
    return {
        "courses": [[0.0, 1.0, 2.0], [0.0, 1.0, 2.0]],
        "spread": 1.0 + 9.0 * rl,
        "apart": 0.5 * rl,
        "spikes": 0.2 * rl,
    }


def _critic_or_group(arm, holds):
    group = holds and arm in ("RLOO", "GRPO")
    return {
        "steps": [0, 64, 128],
        "clock": [0.0, 5.0, 10.0] if group else [0.0, 10.0, 20.0],
        "judge": [0.0, 1.0, 1.0] if group else [0.0, 0.5, 0.5],
        "spread": 5.0 if group else 1.0,
    }


def row(experiment: Experiment, arm: str, holds: bool) -> dict:
    """What an arm would measure."""
    falls = {arm: i for i, arm in enumerate(JUDGED)}
    differs = holds and arm == WITHOUT
    ready = {
        "cliff": {"drop": [0.2 + 0.7 * differs] * 2, "recovery": [2 + 9 * differs] * 2},
        "step-size": {"band": 1.0 + 2.0 * holds * arm.startswith("PPO")},
        "trust-region": {
            "score": 0.5 + holds * (0.4 * (arm != "nothing") + 0.09 * (arm == "TRPO")),
            "cost": 1.0 + 4.0 * holds * (arm == "TRPO"),
            "largest_kl": 0.05 if holds else 0.005,
        },
        "baseline": {"variance": 1.0 if arm == AGAIN or not holds else 4.0 ** -falls.get(arm, 0)},
        "ratio": _ratio(arm, holds),
        "bias-variance": _bias_variance(arm, holds),
        "reuse": _reuse(arm, holds),
        "reward-hacking": _reward_hacking(arm, holds),
        "collapse": _collapse(arm, holds),
        "supervised-vs-rl": _supervised_vs_rl(arm, holds),
        "critic-or-group": _critic_or_group(arm, holds),
    }
    return ready.get(experiment.name) or _details(experiment, arm, holds)


def rows(experiment: Experiment, holds: bool) -> list[dict]:
    """Of three seeds."""
    arms = experiment.arms()
    return [{"arm": arm, "seed": seed, **row(experiment, arm, holds)} for seed in range(3) for arm in arms]
