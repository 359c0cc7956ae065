"""How often does the doctor say that actions matter where they do not, and how often where they do?

    python benchmarks/doctor_chance.py --seeds 100            # observations that nothing moves, much like those before
    python benchmarks/doctor_chance.py --seeds 5 --runs       # short runs: CartPole, Pendulum, rewards 20 steps late

Of each question: the share of seeds with p < 0.05, the share in which an effect counts, and the largest deviation.
"Without the policy" is the regression on the actions themselves, which is all there is where the policy is not known.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from fruitless_environments import LateReward
from known_answer_cases import control

from proximo.control.probes import actions
from proximo.control.probes.experience import Experience, from_updates
from proximo.control.probes.policies import Again
from proximo.control.probes.regression import Effect
from proximo.runs.replay.entry import read


def unmoved(seed: int, *, continuous: bool, steps: int = 400, keeps: float = 0.99) -> Experience:
    """Steps of 8 copies of four numbers that keep 0.99 of themselves, `[steps, 8, 4]`, whatever is done.

    Policy and reward are waves of the observation that no regression on a few features can follow.
    """
    generator = np.random.default_rng(seed)
    shown = np.zeros((steps + 1, 8, 4))
    shown[0] = generator.normal(size=(8, 4))
    for t in range(steps):
        shown[t + 1] = keeps * shown[t] + np.sqrt(1 - keeps**2) * generator.normal(size=(8, 4))

    def waves(x: np.ndarray) -> np.ndarray:
        return np.sin(x @ generator.normal(0, 3, (4, 6)) + generator.uniform(0, 2 * np.pi, 6)) @ generator.normal(
            size=6
        )

    lean, rewards = waves(shown[:-1]), waves(shown[1:])

    def draw(number: int) -> np.ndarray:
        own = np.random.default_rng((seed, number))
        if continuous:
            return np.asarray(0.5 * lean + 0.3 * own.normal(size=lean.shape))[..., None]
        return (own.random(lean.shape) < 1 / (1 + np.exp(-2 * lean)))[..., None].astype(np.float64)

    never, always = np.zeros((steps, 8), bool), np.ones((steps, 8), bool)
    episodes = np.zeros((steps, 8), int)
    # The draw that was taken is one like the others.
    return Experience(shown[:-1], shown[1:], draw(10**6), rewards, never, never, always, episodes, None, Again(draw))


class Late20(LateReward):
    """A reward is paid 20 steps after it was earned."""

    late = 20


def late_20(task="Pendulum-v1"):
    """Rewards come 20 steps late."""
    return Late20(task)


RUNS = {
    "CartPole-v1": control("CartPole-v1", 8_000),
    "Pendulum-v1": control("Pendulum-v1", 20_000),
    "Pendulum-v1, rewards 20 steps late": control(late_20, 20_000, base="Pendulum-v1"),
}


def of_run(name: str, seed: int) -> Experience:
    """The last steps of a short run."""
    with tempfile.TemporaryDirectory() as folder:
        RUNS[name](Path(folder) / "run", seed)
        seen = from_updates(read(Path(folder) / "run" / "replay"))
    assert seen is not None
    return seen


def line(name: str, found: list[Effect]) -> str:
    """One question, over all seeds."""
    unlikely, clear = np.mean([each.p < 0.05 for each in found]), np.mean([each.clear() for each in found])
    return f"{name:<64} {unlikely:6.1%} {clear:6.1%} {max(each.deviations for each in found):6.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--runs", action="store_true")
    arguments = parser.parse_args()
    cases = {name: lambda seed, name=name: of_run(name, seed) for name in RUNS}
    if not arguments.runs:
        cases = {
            "choices, which do nothing": lambda seed: unmoved(seed, continuous=False),
            "numbers, which do nothing": lambda seed: unmoved(seed, continuous=True),
        }
    for name, make in cases.items():
        found: dict[str, list[Effect]] = {}
        late: list[tuple[int, float] | None] = []
        for seed in range(arguments.seeds):
            steps = make(seed)
            for how, each in (("", steps), (", without the policy", replace(steps, again=None))):
                found.setdefault(f"{name}{how}: what follows", []).append(actions.on_what_follows(each))
                found.setdefault(f"{name}{how}: returns", []).append(actions.on_returns(each, 0.99))
            late.append(actions.late(steps))
        for question, answers in found.items():
            print(line(question, answers), flush=True)
        print(f"{name}: steps late, as far as seen: {[each[0] for each in late if each]}", flush=True)


if __name__ == "__main__":
    main()
