"""Schedules: of the library, and a function of progress in [0, 1]."""

import proximo
from proximo.schedules import Cosine, Linear


def main(steps: int = 100_000, run: str = "runs/own-schedule") -> proximo.Run:
    return proximo.train(
        "CartPole-v1",
        steps=steps,
        seed=0,
        run=run,
        learning_rate=Cosine(1e-3, warmup=0.05),
        update={"clip": Linear(0.3, 0.1), "entropy_coefficient": lambda p: 0.01 * (1 - p) ** 2},
    )


if __name__ == "__main__":
    print(main().results)
