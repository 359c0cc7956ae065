"""The formulas that settings stand in, with where they come from. The settings' own texts are their docstrings."""

from collections.abc import Mapping
from dataclasses import dataclass

_PPO = "Schulman et al. 2017, arXiv 1707.06347"


@dataclass(frozen=True)
class Formula:
    """One formula, in which a setting goes by its own name."""

    text: str
    source: str
    """Paper and equation, or section."""


FORMULAS: Mapping[str, Formula] = {
    "gamma": Formula(
        "δ_t = r_t + gamma V(s_{t+1}) - V(s_t), without the middle term where the episode ended",
        "Schulman et al. 2016, arXiv 1506.02438, section 3",
    ),
    "lam": Formula("A_t = Σ_l (gamma lam)^l δ_{t+l}", "Schulman et al. 2016, arXiv 1506.02438, eq. 16"),
    "adam_epsilon": Formula(
        "step = learning_rate m / (√v + adam_epsilon), m and v being the gradient's moments, corrected for their start",
        "Kingma & Ba 2015, algorithm 1",
    ),
    "symmetry.mirror_loss": Formula(
        "loss + mirror_loss mean |μ(M s) - M μ(s)|², M the mirror and μ the mean action",
        "Yu, Turk & Liu 2018, arXiv 1801.08093, the mirror symmetry loss",
    ),
    "update.beta": Formula(
        "act by beta teacher + (1 - beta) student", "Ross, Gordon & Bagnell 2011, arXiv 1011.0686, algorithm 3.1"
    ),
    "update.clip": Formula(
        "loss = -mean min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A), ratio = π(a|s) / π_old(a|s)", f"{_PPO}, eq. 7"
    ),
    "update.clip_high": Formula(
        "clamp(ratio, 1 - clip, 1 + clip_high)", "Yu et al. 2025, arXiv 2503.14476, section 3.1"
    ),
    "update.dual_clip": Formula(
        "max(min(ratio A, clamp(ratio, 1 - clip, 1 + clip) A), dual_clip A) where A < 0",
        "Ye et al. 2020, arXiv 1912.09729, eq. 5",
    ),
    "update.value_coefficient": Formula(
        "loss = policy loss + value_coefficient mean (V - return)^2 / 2 - entropy_coefficient mean entropy",
        f"{_PPO}, eq. 9, whose value loss is not halved",
    ),
    "update.entropy_coefficient": Formula(
        "loss = policy loss + value_coefficient mean (V - return)^2 / 2 - entropy_coefficient mean entropy",
        f"{_PPO}, eq. 9",
    ),
    "update.value_clip": Formula(
        "mean max((V - return)^2, (V_old + clamp(V - V_old, -value_clip, value_clip) - return)^2) / 2",
        "OpenAI's baselines; Engstrom et al. 2020, arXiv 2005.12729, section 3",
    ),
    "update.max_grad_norm": Formula(
        "g is multiplied by max_grad_norm / |g| where |g| > max_grad_norm", "Pascanu et al. 2013, algorithm 1"
    ),
    "update.max_actor_grad_norm": Formula(
        "g is multiplied by max_actor_grad_norm / |g| where |g| > max_actor_grad_norm, g being the actor's part",
        "Pascanu et al. 2013, algorithm 1; apart as in rsl_rl",
    ),
    "update.max_critic_grad_norm": Formula(
        "g is multiplied by max_critic_grad_norm / |g| where |g| > max_critic_grad_norm, g being the critic's part",
        "Pascanu et al. 2013, algorithm 1; apart as in rsl_rl",
    ),
    "update.normalize_advantages": Formula(
        "A becomes (A - mean A) / std A", "Huang et al. 2022, detail 7; not in Schulman et al. 2017"
    ),
    "update.target_kl": Formula(
        "stop before a step where mean (r - 1 - log r) > target_kl, r being the ratio: an estimate of KL(π_old, π)",
        "Schulman 2020, Approximating KL Divergence, k3",
    ),
    "update.adaptive_kl": Formula(
        "learning rate / 1.5 where KL(π_old, π) > 2 adaptive_kl, x 1.5 where it is < adaptive_kl / 2",
        f"{_PPO}, section 4, its rule applied to the step size; exact KL as in rsl_rl",
    ),
    "update.kl_coefficient": Formula("loss = -mean ratio A + kl_coefficient KL(π_old, π)", f"{_PPO}, eq. 8"),
    "update.kl_target": Formula(
        "kl_coefficient / 2 where KL < kl_target / 1.5, x 2 where KL > 1.5 kl_target", f"{_PPO}, section 4"
    ),
    "update.max_kl": Formula(
        "maximise mean ratio A subject to mean KL(π_old, π) <= max_kl",
        "Schulman et al. 2015, arXiv 1502.05477, eq. 14",
    ),
    "kl.coefficient": Formula(
        "reward of a response = score - coefficient log(π(y|x) / π_ref(y|x))",
        "Ziegler et al. 2019, arXiv 1909.08593, eq. 2",
    ),
    "kl.target": Formula(
        "coefficient x (1 + clamp(KL / target - 1, -0.2, 0.2) responses / horizon)",
        "Ziegler et al. 2019, arXiv 1909.08593, section 2.2",
    ),
    "kl.horizon": Formula(
        "coefficient x (1 + clamp(KL / target - 1, -0.2, 0.2) responses / horizon)",
        "Ziegler et al. 2019, arXiv 1909.08593, section 2.2",
    ),
    "centre": Formula(
        "loss = -mean log σ(score of chosen - score of rejected) + centre mean (score of chosen + score of rejected)^2",
        "Bradley & Terry 1952; Eisenstein et al. 2023",
    ),
}
"""By the setting's dotted name. Ratios, advantages A and values V are those of `docs/how-ppo-works-here.md`."""
