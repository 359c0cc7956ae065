"""Which recorded metrics each finding is judged by; a test compares them with the rules."""

from collections.abc import Mapping

READS: Mapping[str, tuple[str, ...]] = {
    "P010": ("normalizers_moved",),
    "P011": ("normalizers_still",),
    "P012": ("ratio_deviation",),
    "P013": ("reset_row_weight", "reset_rows"),
    "P014": ("truncations", "truncations_missed", "truncations_compared", "truncations_faked"),
    "P015": ("kl", "kl_se"),
    "P016": ("sampler_gap",),
    "P017": ("episode_length", "episode_length_std", "terminations", "truncations"),
    "P020": ("approx_kl", "final_approx_kl", "clip_fraction", "stopped_by_kl", "gradient_steps", "std"),
    "P021": ("approx_kl",),
    "P022": ("approx_kl", "final_approx_kl", "clip_fraction", "ended"),
    "P023": ("grad_norm", "grad_clip_fraction"),
    "P024": ("clip_fraction", "approx_kl"),
    "P025": ("entropy", "std"),
    "P026": ("std", "clipped_actions", "entropy"),
    "P027": ("clipped_actions",),
    "P028": ("std_stuck", "std", "learning_rate"),
    "P030": ("explained_variance", "return_std", "return_rms", "value_rms"),
    "P031": ("return_rms", "value_rms"),
    "P032": ("explained_variance", "value_rms"),
    "P033": ("episode_length",),
    "P040": ("observation_rms", "observation_max"),
    "P041": ("reward_mean", "reward_std", "return", "episodes", "ended", "ended_std", "ended_task_mean"),
    "P042": ("episode_length", "return", "task_return", "truncations", "reward_mean"),
    "P043": ("return", "score", "score_std"),
    "P044": ("episodes",),
    "P045": ("memory_mb",),
    "P046": ("ended", "ended_mean", "ended_std", "ended_task_mean", "ended_task_std"),
    "P050": ("score", "score_std", "distinct_2", "duplicates", "response_length", "kl"),
    "P051": ("kl", "response_length"),
    "P052": ("finished",),
    "P053": ("response_length", "score_length_correlation"),
    "P054": ("duplicates",),
    "P055": ("score_std", "score"),
    "P056": ("informative_rewards", "commonest_reward", "best_reward", "score_std"),
    "P058": ("approx_kl", "final_approx_kl", "exact_kl", "gradient_steps"),
    "P059": ("approx_kl", "clip_fraction"),
    "P063": ("truncations_approximated",),
    "P064": ("ended", "ended_mean", "ended_std", "ended_task_mean", "ended_task_std", "approx_kl", "clip_fraction"),
    "P061": ("judge", "judge_se", "judge_distance", "score"),
}
"""By the finding's number. The others are judged by settings or by the steps that a run keeps, or they stop it."""


def read_by(metric: str) -> list[str]:
    """Numbers of the findings that a metric is evidence for."""
    return [number for number, metrics in READS.items() if metric in metrics]
