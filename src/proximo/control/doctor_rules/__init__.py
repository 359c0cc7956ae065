"""What the doctor knows of control runs."""

from proximo.control.doctor_rules import episodes, fruitless, terms
from proximo.runs.doctor.record import Kind

KIND = Kind(
    result="return",
    noisy=False,
    value_coefficient=0.5,
    reward_scaling="normalizers.rewards",
    rules=(
        episodes.entropy_collapsed,
        episodes.entropy_rising,
        episodes.no_reward,
        episodes.ending_pays,
        episodes.never_ends,
        episodes.horizon,
        episodes.approximated,
        terms.reward_terms,
        fruitless.began_sure,
        fruitless.worse,
        fruitless.evaluated_worse,
        fruitless.learnt_nothing,
    ),
    probe=fruitless.probe,
)
"""What the doctor knows of control runs."""
