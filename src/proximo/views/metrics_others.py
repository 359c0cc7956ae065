"""What the metrics are that no page draws: those of `metrics_texts` come first, these are recorded beside them."""

from proximo.views.metrics_texts import TEXTS, MetricText

_SHARE, _COUNT, _STEPS = "share, 0 to 1", "count", "steps"
_REWARD, _SCORE, _NATS = "reward", "of the reward", "nats"
_JUDGED = "standardised score"

OTHERS: dict[str, MetricText] = {
    # -- Of every row.
    "step": MetricText("step", "steps or responses", "Environment steps, responses or gradient steps done so far."),
    "time": MetricText("time", "s", "Wall time of the run so far, all of its sessions together."),
    "findings": MetricText(
        "findings",
        "codes",
        "Codes of what the truth meter found in an iteration, the worst first; one that is milder than the "
        "iteration's health has its own colour behind it.",
    ),
    "not_finite": MetricText(
        "not finite", "names", "Metrics of the row that were NaN or infinite, and are null in it."
    ),
    "error": MetricText("error", "text", "What ended the run; the row of an error holds little else."),
    # -- Of an update.
    "gradient_steps": MetricText("gradient steps", _COUNT, "Gradient steps that the update took."),
    "clip": MetricText("clip", "ratio - 1", "Half width of the clip range in this update, where it has a schedule."),
    "entropy_coefficient": MetricText(
        "entropy coefficient", "per nat", "Weight of the entropy in this update's loss, where it has a schedule."
    ),
    "grad_clip_fraction": MetricText("cut gradients", _SHARE, "Share of the gradient steps whose norm was cut."),
    "last_approx_kl": MetricText(
        "KL at the last minibatch",
        _NATS,
        "The estimate (k3) of the last minibatch that was stepped on, before its step.",
    ),
    "stopped_by_kl": MetricText(
        "stopped by KL", "0 or 1", "Whether target_kl ended the update before its last minibatch."
    ),
    "stopping_kl": MetricText("stopping KL", _NATS, "KL of the minibatch at which target_kl ended the update."),
    "step_share": MetricText(
        "share of the step",
        _SHARE,
        "Part of TRPO's full step that the line search took; 0 leaves the policy as it was.",
    ),
    "surrogate_gain": MetricText("surrogate's gain", "objective", "By how much TRPO's step raised the surrogate."),
    "solver_residual": MetricText(
        "solver's residual", "relative", "What TRPO's conjugate gradients left of |F x - g| / |g|."
    ),
    "kl_penalty": MetricText("KL penalty", "loss", "The penalty β KL(old policy, policy) in the loss of ppo-penalty."),
    "kl_coefficient": MetricText("β", "per nat", "The price of one nat of KL, as it stood in the iteration."),
    "equivariance_error": MetricText(
        "equivariance error",
        "action units",
        "How far the policy is from symmetric: root mean square of π(mirrored s) less mirrored π(s), after the update.",
        better="lower",
    ),
    "imitation_kl": MetricText(
        "KL to the teacher", _NATS, "KL(teacher, student), mean over minibatches of a distillation.", better="lower"
    ),
    "beta": MetricText("beta", _SHARE, "Share of the steps that the teacher took in an iteration of a distillation."),
    "mirror_loss": MetricText(
        "mirror loss", "squared", "Squared difference of mean actions to those of mirror images, before its price."
    ),
    "rnd_bonus": MetricText(
        "bonus for what is new", "deviations", "Mean bonus of a step (rnd), in deviations of its discounted sum."
    ),
    "rnd_error": MetricText(
        "error of RND's predictor", "squared", "What rnd's predictor misses of the fixed network, where it learns."
    ),
    "rnd_value_loss": MetricText(
        "loss of the bonus's critic", "squared", "Half the squared error of the critic of rnd's bonus."
    ),
    "rnd_grad_norm": MetricText("gradient of RND", "norm", "Mean norm of the gradients of rnd's predictor and critic."),
    "kl_in_the_loss": MetricText("KL in the loss", _NATS, "KL to the reference per token, as GRPO's loss pays for it."),
    # -- Of values and returns.
    "value_rms": MetricText(
        "size of values", "root mean square", "Size of the critic's values, in the units that it learns."
    ),
    "return_std": MetricText("returns' deviation", "critic's units", "Standard deviation of the critic's targets."),
    "reward_mean": MetricText(
        "mean reward", "reward per step", "Mean reward of an iteration, as the environment gives it."
    ),
    "reward_std": MetricText("rewards' deviation", "reward per step", "Standard deviation of an iteration's rewards."),
    # -- Of environments and episodes.
    "episodes": MetricText("episodes", _COUNT, "Episodes that have ended so far."),
    "truncations_approximated": MetricText(
        "cut episodes, approximated",
        _COUNT,
        "Cut episodes whose last state was not asked for (`truncation = previous` or `drop`).",
    ),
    "episodes_cut": MetricText(
        "episodes cut", _COUNT, "Episodes so far that a restart of the environments cut; they are in no return."
    ),
    "episode_length_std": MetricText(
        "episode lengths' deviation", _STEPS, "Standard deviation of the last 100 episodes' lengths."
    ),
    "evaluation_return": MetricText(
        "return of the evaluation",
        "reward per episode",
        "Mean return of an evaluation during training (evaluate_every).",
    ),
    "ended": MetricText("episodes ended", _COUNT, "Episodes that ended in the iteration."),
    "ended_mean": MetricText(
        "their mean return", "reward per episode", "Mean return of the episodes that ended in it."
    ),
    "ended_std": MetricText("their deviation", "reward per episode", "Standard deviation of these episodes' returns."),
    "ended_task_mean": MetricText(
        "the task's own mean",
        "reward per episode",
        "The mean return of the task itself, where a wrapper changes rewards.",
    ),
    "ended_task_std": MetricText(
        "the task's own deviation",
        "reward per episode",
        "Standard deviation of the task's own returns of these episodes.",
    ),
    "terminations": MetricText("terminations", _COUNT, "Episodes of the iteration that reached a terminal state."),
    "truncations": MetricText(
        "truncations", _COUNT, "Episodes of the iteration that were cut, by a time limit as a rule."
    ),
    "truncations_missed": MetricText(
        "lost final states", _COUNT, "Cut episodes whose last state is not known; none may be."
    ),
    "truncations_compared": MetricText(
        "compared final states", _COUNT, "Cut episodes whose last state can be told from the next episode's first."
    ),
    "truncations_faked": MetricText(
        "wrong final states",
        _COUNT,
        "Those of the compared whose last state is the next episode's first, which it is not.",
    ),
    "reset_rows": MetricText("reset rows", _COUNT, "Rows of the iteration that only report a reset."),
    "reset_row_weight": MetricText("weight of reset rows", "weight", "Weight of these rows in the loss; it must be 0."),
    "observation_max": MetricText(
        "largest observation", "as the network sees it", "The largest absolute number in an iteration's observations."
    ),
    "normalizers_moved": MetricText(
        "normalisers moved", "largest change", "How far a statistic moved between acting and learning; it must be 0."
    ),
    "normalizers_still": MetricText(
        "normalisers still", "0 or 1", "1 where no statistic took the iteration in, which is wrong."
    ),
    "std_stuck": MetricText(
        "deviations that stand", _COUNT, "How many of the actions' deviations the update left where they were."
    ),
    # -- Of responses and their rewards.
    "score_std": MetricText("scores' deviation", _SCORE, "Standard deviation of an iteration's scores."),
    "rewarded": MetricText(
        "optimised score", _SCORE, "Mean score after score_clip and missing_eos_floor, which is what is optimised."
    ),
    "informative_rewards": MetricText(
        "informative rewards",
        _SHARE,
        "Share of the rewards that differ from the commonest one; the others teach little.",
    ),
    "commonest_reward": MetricText("commonest reward", _SCORE, "The reward that most responses of an iteration got."),
    "best_reward": MetricText("best reward", _SCORE, "The largest reward of an iteration."),
    "equal_groups": MetricText(
        "groups without a difference", _SHARE, "Share of the prompts whose responses all got one reward (RLOO, GRPO)."
    ),
    "kl_k3": MetricText(
        "KL to the reference, k3",
        "nats per response",
        "The KL to the reference by the estimate k3, which has less noise.",
    ),
    "kl_se": MetricText("error of the KL", "nats per response", "Standard error of the KL to the reference (k1)."),
    "distinct_1": MetricText("distinct-1", _SHARE, "Share of different tokens among all tokens in the responses."),
    "score_length_correlation": MetricText(
        "score and length", "correlation, -1 to 1", "Correlation of a response's score with its length."
    ),
    "sampler_log_probs": MetricText(
        "whose log-probs",
        "0 or 1",
        "Whether the ratio's denominator is the sampler's log-probs (1) or the trainer's (0).",
    ),
    "padded_share": MetricText("padding", _SHARE, "Share of the tokens that went through the network as padding."),
    "tokens_per_second": MetricText(
        "speed", "tokens per second", "Tokens of prompts and responses per second of an iteration."
    ),
    "texts": MetricText("texts", _COUNT, "Different texts of a step, each of which goes through the network once."),
    # -- Of the judge that is not optimised (docs/results-language.md).
    "judge_se": MetricText("error of the judge", _JUDGED, "Standard error of the judge's mean, over the prompts."),
    "judge_distance": MetricText(
        "distance", "√nats", "Root of the KL to the reference on the judged responses: how far the policy has gone."
    ),
    "judge_alpha": MetricText(
        "α of the curve",
        "score per √nat",
        "The gain at first in the judge's curve d (α - β log d) over the distance d.",
    ),
    "judge_beta": MetricText("β of the curve", "score per √nat", "How fast that gain is lost with the distance."),
    "judge_peak": MetricText("peak", "√nats", "Distance at which the curve is highest."),
    "judge_peak_low": MetricText("peak, low", "√nats", "Lower end of the peak's interval."),
    "judge_peak_high": MetricText("peak, high", "√nats", "Upper end of the peak's interval."),
}
"""By name."""

FAMILIES: dict[str, MetricText] = {
    "seconds/": TEXTS["seconds"],
    "term/": MetricText(
        "a part of the reward",
        "reward per step",
        "Mean of the reward's part of that name, as the environment tells it.",
    ),
    "log/": MetricText(
        "an environment's log", "as it says", "Mean of the number of that name in the environment's log."
    ),
    "reward/": MetricText("a reward term", _SCORE, "Mean score of the reward term of that name, where it applies."),
    "reward_raw/": MetricText(
        "a reward model's own score", _SCORE, "The reward model's score before it was standardised."
    ),
    "reward_cut/": MetricText(
        "cut texts", _SHARE, "Share of the texts that were too long for the reward model of that name, and were cut."
    ),
    "unrewarded/": MetricText(
        "unscored responses", _SHARE, "Share of the responses that the reward term of that name has no score for."
    ),
    "validation/": MetricText(
        "a look at held-out pairs", "as it says", "The number of that name, on pairs that are not learnt from."
    ),
    "final/": MetricText("a result", "as it says", "The number of that name at the end, on all held-out pairs."),
}
"""Beginnings of names that end in what a person or a phase is called."""


def text_of_metric(name: str) -> MetricText | None:
    """What a metric is; None for one that is none of ours."""
    found = TEXTS.get(name) or OTHERS.get(name)
    family = next((text for start, text in FAMILIES.items() if name.startswith(start) and name != start), None)
    return found or family
