"""Callbacks: a function that stops early, and an object that counts over stops and resumes."""

from collections.abc import Mapping
from typing import Any

import proximo


def stop_when_good(trainer: proximo.Trainer, metrics: dict[str, Any]) -> bool:
    """Ends the training once the mean return of 100 episodes is above 475."""
    return (metrics["return"] or 0) <= 475


class CountGoodIterations(proximo.Callback):
    """Adds a number of its own to the metrics; its state is in every checkpoint."""

    def __init__(self) -> None:
        self.good = 0

    def iteration(self, trainer: proximo.Trainer, metrics: dict[str, Any]) -> None:
        self.good += (metrics["return"] or 0) > 100
        metrics["good_iterations"] = self.good

    def state(self) -> dict[str, Any]:
        return {"good": self.good}

    def load(self, state: Mapping[str, Any]) -> None:
        self.good = state["good"]


def main(steps: int = 100_000, run: str = "runs/callbacks") -> proximo.Run:
    callbacks = [stop_when_good, CountGoodIterations()]
    return proximo.train("CartPole-v1", steps=steps, seed=0, run=run, callbacks=callbacks)


if __name__ == "__main__":
    print(main().results)
