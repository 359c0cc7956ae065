"""The figures of docs/how-ppo-works-here.md, each computed by the functions of `proximo.core` that training calls.

    python benchmarks/ppo_figures.py [FOLDER]   # writes docs/pictures/{clip,gae,kl}.svg, and PNGs to FOLDER

Needs matplotlib (extra lab).
"""

import sys
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from proximo.core.advantages import gae
from proximo.core.divergences import kl_k1, kl_k3
from proximo.core.objectives import clipped_surrogate

CLIP = 0.2
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#6e7781"  # told apart by those who see no red or no green


def objective(ratio, advantage, clip):
    """PPO's objective of one sample and its gradient by the ratio, at each ratio."""
    moved = ratio.clone().requires_grad_()
    told = []
    for x in moved:
        loss, _ = clipped_surrogate(x.log()[None], torch.zeros(1), torch.tensor([advantage]), clip=clip)
        told.append(-loss)
    (gradient,) = torch.autograd.grad(torch.stack(told).sum(), moved)
    return torch.stack(told).detach(), gradient


def clip_figure(figure):
    """What one sample adds to the objective, by its ratio, for either sign of its advantage."""
    ratio = torch.linspace(0.4, 1.6, 241)
    for axes, advantage in zip(figure.subplots(1, 2), (1.0, -1.0), strict=True):
        free, _ = objective(ratio, advantage, None)
        held, gradient = objective(ratio, advantage, CLIP)
        axes.plot(ratio, free, color=GREY, linestyle="--", label="without the clip")
        axes.plot(ratio, held, color=BLUE, linewidth=2.2, label=f"clip = {CLIP}")
        still = ratio[gradient == 0]
        axes.axvspan(still.min(), still.max(), color=ORANGE, alpha=0.15, label="no gradient")
        axes.axvline(1, color=GREY, linewidth=0.8)
        axes.set(xlabel="ratio = new / old probability of the action", ylabel="objective of this sample")
        axes.set_title("advantage +1: the action was good" if advantage > 0 else "advantage -1: the action was bad")
        axes.legend(frameon=False, loc="upper left" if advantage > 0 else "lower left")


def gae_figure(figure):
    """How a reward of 1 at step 20 reaches the steps before it, where the critic says 0 everywhere."""
    steps, gamma = 40, 0.99
    rewards, none = torch.zeros(steps), torch.zeros(steps, dtype=torch.bool)
    rewards[20] = 1.0
    credit, bias = figure.subplots(1, 2)
    for lam, style in ((0.0, ":"), (0.9, "-."), (0.95, "-"), (1.0, "--")):
        advantages, _ = gae(rewards, *torch.zeros(2, steps), none, none, gamma=gamma, lam=lam)
        credit.plot(advantages, linestyle=style, label=f"λ = {lam:g}", color=BLUE if lam == 0.95 else GREY)
    credit.set(xlabel="step", ylabel="advantage", title="a reward of 1 at step 20, critic 0")
    credit.legend(frameon=False, loc="upper right")
    # Every step pays 1. The true value is that of a task without end; the critic knows it.
    value = torch.full((steps,), 1 / (1 - gamma))
    last = none.clone()
    last[-1] = True
    ends = {
        "time limit, bootstrapped": (last & False, last, "-", BLUE),
        "time limit taken for an end": (last, last, "--", ORANGE),
    }
    for name, (terminated, done, style, colour) in ends.items():
        advantages, _ = gae(torch.ones(steps), value, value, terminated, done, gamma=gamma, lam=0.95)
        bias.plot(advantages, linestyle=style, color=colour, label=name)
    bias.set(xlabel="step", ylabel="advantage", title="episode cut at step 39, perfect critic")
    bias.legend(frameon=False, loc="lower left")


def kl_figure(figure):
    """What one sample adds to an estimate of KL(old, new), by its ratio."""
    ratio = torch.linspace(0.3, 2.0, 300)
    new, old = ratio.log(), torch.zeros_like(ratio)
    axes = figure.subplots()
    axes.plot(ratio, kl_k1(old, new), color=GREY, linestyle="--", label="k1 = -log ratio: unbiased, of either sign")
    axes.plot(ratio, kl_k3(old, new), color=BLUE, linewidth=2.2, label="k3 = ratio - 1 - log ratio: never negative")
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.axvspan(1 - CLIP, 1 + CLIP, color=ORANGE, alpha=0.15, label=f"inside clip = {CLIP}")
    axes.set(xlabel="ratio = new / old probability of the action", ylabel="nats of this sample")
    axes.legend(frameon=False, loc="upper right", fontsize=9)


def main():
    folder = Path(__file__).parents[1] / "docs" / "pictures"
    for name, draw in (("clip", clip_figure), ("gae", gae_figure), ("kl", kl_figure)):
        figure = Figure(figsize=(7.6, 3.4), layout="constrained")
        draw(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        if len(sys.argv) > 1:  # to look at
            figure.savefig(Path(sys.argv[1]) / f"{name}.png", dpi=80)


if __name__ == "__main__":
    main()
