"""How often a rollout may be used, and what a replay buffer makes of the same steps."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from proximo.lab.experiment import Claim, Experiment, Row
from proximo.lab.off_policy import Episode, dqn_episodes, require
from proximo.lab.policies import iterate, settings, training

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CART, LANDER = "CartPole-v1", "LunarLander-v3"
EPOCHS: Mapping[str, int] = {"1 epoch": 1, "3 epochs": 3, "10 epochs": 10, "30 epochs": 30, "10 epochs, again": 10}
BESIDE: Mapping[str, tuple[str, str]] = {
    f"{algorithm}, {task}": (algorithm, task) for task in (CART, LANDER) for algorithm in ("PPO", "DQN")
}
RANGE: Mapping[str, tuple[float, float]] = {CART: (0.0, 500.0), LANDER: (-200.0, 250.0)}
"""Returns that count as 0 and as 1."""
STEPS: Mapping[str, int] = {CART: 30_000, LANDER: 60_000}
"""Of the comparison with DQN."""
COLOURS = ("#8250df", "#2da44e", "#1f6feb", "#d1572c")
POINTS = 40


class Reuse(Experiment):
    """See `texts/reuse.md`."""

    name: ClassVar[str] = "reuse"
    seeds: ClassVar[int] = 3

    def arms(self) -> list[str]:
        """Numbers of epochs, one of them once more, and PPO and DQN on two tasks."""
        arms = [*EPOCHS, *BESIDE]
        return [arm for arm in arms if not (self.quick and (LANDER in arm or arm == "3 epochs"))]

    def measure(self, arm: str, seed: int) -> dict[str, Any]:
        """`score` of the whole run, its `curve`, `seconds_used` of the processor, and the KL of its updates."""
        require(task for arm, (_, task) in BESIDE.items() if arm in self.arms())
        if arm in EPOCHS:
            return _ppo(CART, seed + 1000 * arm.endswith("again"), 2_000 if self.quick else 60_000, EPOCHS[arm])
        algorithm, task = BESIDE[arm]
        steps = 2_000 if self.quick else STEPS[task]
        if algorithm == "PPO":
            return _ppo(task, seed, steps, None)
        return in_numbers(task, steps, dqn_episodes(task, seed, steps))

    def claims(self) -> list[Claim]:
        """Epochs beside each other, and DQN beside PPO for each task that is tried."""
        found = [
            _higher("Ten epochs on a rollout give a higher return than one.", "10 epochs", "1 epoch"),
            _higher("Thirty epochs give a lower return than ten.", "10 epochs", "30 epochs"),
            Claim(
                "The mean KL of an update with thirty epochs is more than three times that with ten.",
                lambda arms: arms["30 epochs"]["kl"] / arms["10 epochs"]["kl"],
                3.0,
            ),
        ]
        for task in (CART, LANDER):
            if f"DQN, {task}" in self.arms():
                found += _beside(task)
        again = "Ten epochs give a higher return than ten, with other seeds."
        return [*found, replace(_higher(again, "10 epochs", "10 epochs, again"), control=True)]

    def draw(self, axes: "Axes", rows: Sequence[Row]) -> None:
        """Return over steps, means over the seeds: of each number of epochs, and of DQN on the same task."""
        for arm, colour in zip([*EPOCHS][:4], COLOURS, strict=True):
            _line(axes, rows, arm, color=colour, label=arm)
        _line(axes, rows, f"DQN, {CART}", color="#57606a", linestyle="--", label="DQN, replay")
        axes.set_xlabel(f"environment steps, {CART}")
        axes.set_ylabel("return of training episodes")
        axes.legend(frameon=False)


def _line(axes: "Axes", rows: Sequence[Row], arm: str, **look: Any) -> None:
    here = [row for row in rows if row["arm"] == arm]
    if here:
        least = min(len(row["curve"]) for row in here)
        points = np.mean([row["curve"][-least:] for row in here], 0)
        axes.plot(points[:, 0], points[:, 2], **look)


def _higher(says: str, first: str, second: str) -> Claim:
    return Claim(says, lambda arms: arms[first]["score"] - arms[second]["score"], 0.05)


def _beside(task: str) -> list[Claim]:
    """DQN and PPO after as many steps, and after as many seconds as the one that was done first took."""
    ppo, dqn = f"PPO, {task}", f"DQN, {task}"

    def by_time(arms: Mapping[str, Row]) -> float:
        seconds = min(arms[ppo]["seconds_used"], arms[dqn]["seconds_used"])
        return _until(arms[ppo], seconds, task) - _until(arms[dqn], seconds, task)

    return [
        _higher(f"Per step, DQN has a higher return than PPO ({task}).", dqn, ppo),
        Claim(f"Per second of the processor, PPO has a higher return than DQN ({task}).", by_time, 0.05),
    ]


def _until(row: Row, seconds: float, task: str) -> float:
    """The last return that a run had shown by then, as a share; 0 before any episode has ended."""
    seen = [value for _, spent, value in row["curve"] if spent <= seconds]
    return _share(seen[-1], task) if seen else 0.0


def _share(value: float, task: str) -> float:
    low, high = RANGE[task]
    return (value - low) / (high - low)


def _ppo(task: str, seed: int, steps: int, epochs: int | None) -> dict[str, Any]:
    """The tuned preset; with a constant learning rate where the epochs are given."""
    config = settings(task, seed=seed, steps=steps)
    if epochs is not None:
        config = replace(config, learning_rate=2e-3, update=replace(config.update, epochs=epochs))
    episodes: list[Episode] = []
    divergences: list[float] = []
    started = time.process_time()
    with training(config) as begun:
        while begun.progress.steps < steps:
            row, mean = iterate(begun)
            divergences.append(float(row["exact_kl"] or 0.0))
            if mean is not None:
                episodes.append((begun.progress.steps, time.process_time() - started, mean))
    return {
        **in_numbers(task, steps, episodes),
        "kl": sum(divergences) / len(divergences),
        "largest_kl": max(divergences),
    }


def in_numbers(task: str, steps: int, episodes: Sequence[Episode]) -> dict[str, Any]:
    """A run in numbers: mean return over equal parts of its steps, the last one known where no episode ended. What a
    last rollout has beyond the steps counts as their end.
    """
    curve: list[list[float]] = []
    for part in range(1, POINTS + 1):
        bounds = steps * (part - 1) / POINTS, steps * part / POINTS
        here = [each for each in episodes if bounds[0] < min(each[0], steps) <= bounds[1]]
        if here:
            curve.append([bounds[1], here[-1][1], sum(value for *_, value in here) / len(here)])
        elif curve:
            curve.append([bounds[1], *curve[-1][1:]])
    score = sum(_share(value, task) for *_, value in curve) / max(1, len(curve))
    return {"score": score, "curve": curve, "seconds_used": episodes[-1][1] if episodes else 0.0}
