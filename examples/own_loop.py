"""A loop of your own around the training: print, plot, stop, look at the policy."""

import proximo


def main(steps: int = 100_000, run: str = "runs/own-loop") -> proximo.Run:
    trainer = proximo.Trainer("CartPole-v1", steps=steps, seed=0, run=run, progress="quiet")
    for metrics in trainer:
        shown = "no episode ended" if metrics["return"] is None else f"return {metrics['return']:.1f}"
        print(f"{metrics['step']:>8,} steps  {shown}  KL {metrics['approx_kl']:.3f}")
        if (metrics["return"] or 0) > 475:
            trainer.stop()  # saved; iterating again, or the same program, resumes
    assert trainer.run is not None
    return trainer.run


if __name__ == "__main__":
    main()
