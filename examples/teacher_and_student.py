"""A student that sees positions alone learns from a teacher that sees velocities too; then PPO goes on from it."""

import gymnasium
import numpy as np
from gymnasium import spaces

import proximo


class InParts(gymnasium.ObservationWrapper):
    """CartPole's observation as `position` and `velocity`, so that one of them can be hidden."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        part = spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = spaces.Dict({"position": part, "velocity": part})

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"position": observation[[0, 2]], "velocity": observation[[1, 3]]}


def make() -> gymnasium.Env:
    return InParts(gymnasium.make("CartPole-v1"))


def main(steps: int = 60_000, runs: str = "runs/distillation", seed: int = 0) -> dict[str, float]:
    sees = {"network": {"memory": "gru"}, "seed": seed, "steps": steps}
    teacher = proximo.train(make, steps=steps, seed=seed, run=f"{runs}/teacher", environments=8)
    student = proximo.distill(teacher, make, run=f"{runs}/student", observations={"student": ["position"]}, **sees)
    # PPO with that memory, from the student and from nothing.
    sees |= {"observations": {"actor": ["position"]}, "update": {"minibatch_size": 512}}
    tuned = proximo.train(make, run=f"{runs}/tuned", learning_rate=1e-4, start_from=student, **sees)
    alone = proximo.train(make, run=f"{runs}/alone", **sees)
    named = {"teacher": teacher, "student": student, "student and PPO": tuned, "PPO alone": alone}
    return {name: run.results["final_deterministic"] for name, run in named.items()}


if __name__ == "__main__":
    print(main())
