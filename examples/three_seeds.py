"""Three seeds of one task, and their learning curves as columns of text."""

import proximo


def main(steps: int = 50_000, runs: str = "runs/three-seeds") -> dict[int, float]:
    finals = {}
    for seed in range(3):
        run = proximo.train("CartPole-v1", steps=steps, seed=seed, run=f"{runs}/{seed}", progress="quiet")
        curve = [row["return"] for row in proximo.metrics(run.path) if row["return"] is not None]
        finals[seed] = proximo.evaluate(run.path, episodes=10)["final_deterministic"]
        tenths = [curve[len(curve) * i // 10] for i in range(10)] if curve else []
        print(f"seed {seed}: {' '.join(f'{x:6.1f}' for x in tenths)} -> {finals[seed]:.1f}")
    return finals


if __name__ == "__main__":
    main()
