"""Where each of the doctor's rules begins: a record on either side of every threshold."""

import pytest
from records import control, language, seen

from proximo.runs.doctor.report import diagnose


def late(name, before, after, at=20):
    """A metric that changes at an iteration."""
    return lambda i: {name: before if i < at else after}


def shorter(length):
    """Episodes of 100 steps that each cost 1 become shorter, and cheaper."""
    return lambda i: {
        "episode_length": 100.0 if i < 20 else length,
        "return": -100.0 if i < 20 else -length,
        "reward_mean": -1.0,
        "truncations": 0,
    }


@pytest.mark.parametrize(
    ("this_side", "that_side", "expected"),
    [
        # Steps.
        (
            control(lambda i: {"approx_kl": 0.049}, update={"clip": "none"}),
            control(lambda i: {"approx_kl": 0.051}, update={"clip": "none"}),
            ("P021", "red"),
        ),
        (
            control(lambda i: {"approx_kl": 0.01}, update={"clip": "none"}),
            control(lambda i: {"approx_kl": 1.1 if i == 2 else 0.01}, update={"clip": "none"}),
            ("P021", "red"),
        ),
        (
            control(lambda i: {"clip_fraction": 0.4}, update={"epochs": 20}),
            control(lambda i: {"clip_fraction": 0.4}, update={"epochs": 21}),
            ("P024", "red"),
        ),
        (
            control(lambda i: {"clip_fraction": 0.24}, update={"epochs": 50}),
            control(lambda i: {"clip_fraction": 0.26}, update={"epochs": 50}),
            ("P024", "red"),
        ),
        (control(lambda i: {"approx_kl": 0.099}), control(lambda i: {"approx_kl": 0.101}), ("P020", "red")),
        (
            control(lambda i: {"approx_kl": 0.099 if i == 9 else 0.01}),
            control(lambda i: {"approx_kl": 0.101 if i == 9 else 0.01}),
            ("P020", "amber"),
        ),
        (
            control(lambda i: {"stopped_by_kl": 1, "gradient_steps": 1 if i < 20 else 2}),
            control(lambda i: {"stopped_by_kl": 1, "gradient_steps": 1 if i < 21 else 2}),
            ("P020", "red"),
        ),
        (
            control(lambda i: {"approx_kl": 2.1e-5, "clip_fraction": 0.0}),
            control(lambda i: {"approx_kl": 1.9e-5, "clip_fraction": 0.0}),
            ("P022", "red"),
        ),
        (
            control(lambda i: {"approx_kl": 1e-6, "clip_fraction": 1.1e-3}),
            control(lambda i: {"approx_kl": 1e-6, "clip_fraction": 0.9e-3}),
            ("P022", "red"),
        ),
        (
            control(lambda i: {"approx_kl": 1e-6, "clip_fraction": 0.0}, count=5),  # two of five are too few
            control(lambda i: {"approx_kl": 1e-6, "clip_fraction": 0.0}, count=6),
            ("P022", "red"),
        ),
        # 39 were won, from 10 to 49; half of that is 19.5, and four fifths are 31.2.
        (
            control(lambda i: {"return": 10.0 + i if i < 39 else 29.0}),
            control(lambda i: {"return": 10.0 + i if i < 39 else 28.0}),
            ("P043", "amber"),
        ),
        (
            control(lambda i: {"return": 100.0 - 0.7 * i}),
            control(lambda i: {"return": 100.0 - 0.8 * i}),
            ("P043", "red"),
        ),
        # Exploration and critic.
        (control(lambda i: {"std": 0.021}), control(lambda i: {"std": 0.019}), ("P025", "red")),
        (control(late("entropy", 1.0, 0.021)), control(late("entropy", 1.0, 0.019)), ("P025", "amber")),
        (
            control(late("entropy", 1.0, 0.76), update={"entropy_coefficient": -0.1}),
            control(late("entropy", 1.0, 0.74), update={"entropy_coefficient": -0.1}),
            ("P025", "red"),
        ),
        (
            control(lambda i: {"std": 1.0 + 1.4 * i / 39, "clipped_actions": 0.7}, update={"entropy_coefficient": 0.1}),
            control(lambda i: {"std": 1.0 + 1.6 * i / 39, "clipped_actions": 0.7}, update={"entropy_coefficient": 0.1}),
            ("P026", "red"),
        ),
        (
            control(lambda i: {"std": 1.0 + 1.6 * i / 39, "clipped_actions": 0.7}),  # nothing pays for it
            control(lambda i: {"std": 1.0 + 1.6 * i / 39, "clipped_actions": 0.5}, update={"entropy_coefficient": 0.1}),
            ("P026", "amber"),
        ),
        (
            control(lambda i: {"explained_variance": 0.01}),
            control(lambda i: {"explained_variance": -0.01}),
            ("P030", "amber"),
        ),
        (
            control(lambda i: {"explained_variance": -0.1, "return_std": 0.09}),
            control(lambda i: {"explained_variance": -0.1, "return_std": 0.11}),
            ("P030", "amber"),
        ),
        (
            control(lambda i: {"explained_variance": -0.1}, count=19),
            control(lambda i: {"explained_variance": -0.1}, count=20),
            ("P030", "amber"),
        ),
        # Memory: in the 36 iterations after the warm-up, by 100 MB and a fifth of where they began.
        (
            control(lambda i: {"memory_mb": 300.0 + 2.7 * i}),
            control(lambda i: {"memory_mb": 300.0 + 2.9 * i}),
            ("P045", "amber"),
        ),
        (
            control(lambda i: {"memory_mb": 1000.0 + 5.5 * i}),
            control(lambda i: {"memory_mb": 1000.0 + 6.0 * i}),
            ("P045", "amber"),
        ),
        # The task.
        (control(gamma=0.9), control(gamma=0.89), ("P033", "red")),
        (
            control(lambda i: {"episode_length": 90.0}, gamma=0.89),
            control(lambda i: {"episode_length": 92.0}, gamma=0.89),
            ("P033", "red"),
        ),
        (
            control(lambda i: {"return": -200.0, "episodes": 19}),
            control(lambda i: {"return": -200.0, "episodes": 20}),
            ("P041", "amber"),
        ),
        (
            control(lambda i: {"reward_mean": 0.0, "reward_std": 0.0}, count=2),
            control(lambda i: {"reward_mean": 0.0, "reward_std": 0.0}, count=3),
            ("P041", "red"),
        ),
        (
            control(lambda i: {"episodes": 0}, environments=11),
            control(lambda i: {"episodes": 0}, environments=10),
            ("P044", "red"),
        ),
        (control(shorter(81.0)), control(shorter(79.0)), ("P042", "amber")),
        # Responses.
        (
            language(lambda i: {"score": 0.95 * i / 36, "distinct_2": 0.8 - 0.02 * i}, count=37),
            language(lambda i: {"score": 1.3 * i / 36, "distinct_2": 0.8 - 0.02 * i}, count=37),
            ("P050", "red"),
        ),
        (
            language(lambda i: {"score": 0.1 * i, "distinct_2": 0.8 if i < 20 else 0.49}),
            language(lambda i: {"score": 0.1 * i, "distinct_2": 0.8 if i < 20 else 0.47}),
            ("P050", "red"),
        ),
        (
            language(lambda i: {"score": 0.1 * i, "duplicates": 0.0 if i < 20 else 0.29}),
            language(lambda i: {"score": 0.1 * i, "duplicates": 0.0 if i < 20 else 0.31}),
            ("P050", "red"),
        ),
        (
            language(lambda i: {"score": 0.1 * i}, evaluation={"rise_sd": -0.19, "rise_se": 0.1}),
            language(lambda i: {"score": 0.1 * i}, evaluation={"rise_sd": -0.21, "rise_se": 0.1}),
            ("P050", "red"),
        ),
        (
            language(late("response_length", 20.0, 29.9)),
            language(late("response_length", 20.0, 30.1)),
            ("P053", "amber"),
        ),
        (
            language(late("response_length", 20.0, 10.1)),
            language(late("response_length", 20.0, 9.9)),
            ("P053", "amber"),
        ),
        (
            language(late("response_length", 20.0, 22.7), response_limit=24),
            language(late("response_length", 20.0, 22.9), response_limit=24),
            ("P053", "amber"),
        ),
        (
            language(late("response_length", 20.5, 23.9), response_limit=24),
            language(late("response_length", 20.3, 23.9), response_limit=24),
            ("P053", "amber"),
        ),
        (
            language(lambda i: {"finished": 0.11}),
            language(lambda i: {"finished": 0.09}),
            ("P052", "red"),
        ),
        (
            language(lambda i: {"duplicates": 0.0 if i < 20 else 0.29, "score": 0.0}),
            language(lambda i: {"duplicates": 0.0 if i < 20 else 0.31, "score": 0.0}),
            ("P054", "amber"),
        ),
    ],
)
def test_a_rule_begins_at_its_threshold(this_side, that_side, expected):
    assert seen(this_side) == []
    assert seen(that_side)[:1] == [expected]


@pytest.mark.parametrize(
    ("amber", "red"),
    [
        (control(late("approx_kl", 4.9, 0.01, at=1)), control(late("approx_kl", 5.1, 0.01, at=1))),
        (
            control(lambda i: {"return": 10.0 + i if i < 39 else 18.0}),
            control(lambda i: {"return": 10.0 + i if i < 39 else 16.0}),
        ),
        (
            control(lambda i: {"std": 1.0 + i, "clipped_actions": 0.59}, update={"entropy_coefficient": 0.1}),
            control(lambda i: {"std": 1.0 + i, "clipped_actions": 0.61}, update={"entropy_coefficient": 0.1}),
        ),
        (
            language(lambda i: {"response_length": 10.0 + i, "score_length_correlation": 0.79}),
            language(lambda i: {"response_length": 10.0 + i, "score_length_correlation": 0.81}),
        ),
    ],
)
def test_where_amber_turns_red(amber, red):
    assert [diagnose(record)[0].finding.severity for record in (amber, red)] == ["amber", "red"]


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(0.25, "'0.0002 -> 0'"), (1.0, "'0.0001 -> 0'"), (100.0, "'1e-05 -> 0'"), (1e6, "'1e-05 -> 0'")],
)
def test_a_step_that_is_too_large_is_divided_by_the_root_of_how_much_down_to_a_hundredth(kl, expected):
    first, *_ = diagnose(control(lambda i: {"approx_kl": kl}))
    assert [change.proposed for change in first.changes] == [expected, "0.03"]


@pytest.mark.parametrize(("kl", "expected"), [(5e-7, "'0.1 -> 0'"), (5e-9, "'1 -> 0'"), (5e-15, "'1 -> 0'")])
def test_a_step_that_is_too_small_is_multiplied_likewise_up_to_a_thousand(kl, expected):
    first, *_ = diagnose(control(lambda i: {"approx_kl": kl, "clip_fraction": 0.0}))
    assert [change.proposed for change in first.changes] == [expected]
