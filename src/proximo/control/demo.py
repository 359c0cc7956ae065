"""`make demo`: train HalfCheetah to a return above 2,000, evaluate it, and say where everything is."""

import sys
from pathlib import Path

from proximo import cli

RUN = Path("runs/demo")
GOAL = 2000.0


def main() -> int:
    """Train (or go on, or show what is there); 0 when the goal is reached."""
    print("Training HalfCheetah-v5 with PPO; Ctrl-C saves, and `make demo` goes on.", file=sys.stderr)
    code = cli.main(
        ["train", "HalfCheetah-v5", "--preset", "tuned", "--steps", "4e5", "--seed", "0", "--run", str(RUN)]
    )
    if code:
        return code
    from proximo.control.results import read_results

    results = read_results(RUN) or {}
    reached = results.get("final_deterministic", float("-inf"))
    print(f"{'reached' if reached > GOAL else 'NOT reached'}: a return above {GOAL:,.0f} (it is {reached:,.1f})")
    print(f"curves:  .venv/bin/tensorboard --logdir {RUN}/tensorboard")
    print(f"policy:  proximo.load('{RUN}').act(observation)")
    return 0 if reached > GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
