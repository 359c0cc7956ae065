"""Whether a run beats its first policy: closed forms, and records on either side of every threshold."""

import json
from dataclasses import replace

import numpy as np
import pytest
from records import control, seen

from proximo.control.probes.answers import Answers
from proximo.control.probes.regression import Effect
from proximo.runs.doctor.learning import learning
from proximo.runs.doctor.report import diagnose
from proximo.runs.health.returns import Returns


def episodes(mean=0.0, late=0.0, std=1.0, count=8, at=10, **others):
    """Eight episodes end in each iteration; their mean return changes at one of them."""
    return lambda i: (
        {"ended": count, "ended_mean": mean if i < at else late, "ended_std": std, "step": 1000 * (i + 1)} | others
    )


def told(**changes):
    """What sound steps say."""
    usual = {
        "steps": 4000,
        "constant": False,
        "foretold": 0.9,
        "returns_told": 0.4,
        "reward_told": 0.9,
        "dense": True,
        "follows": Effect(0.5, 0.6, 0.005, 90.0),
        "returns": Effect(0.02, 0.03, 0.005, 4.1),
        "late": None,
        "looks": True,
    }
    return Answers(**(usual | changes))


def probed(record, **changes):
    """The record with such answers of its steps."""
    return replace(record, kind=replace(record.kind, probe=lambda run: told(**changes)))


LUCK = {"returns": Effect(0.01, 0.02, 0.005, 3.9)}


class Watched(dict):
    """A row that counts how often the deviation of the task's returns is looked up: the course of a run alone does."""

    looked = 0

    def get(self, name, default=None):
        self.looked += name == "ended_task_std"
        return super().get(name, default)


def test_an_examination_goes_through_the_returns_of_a_run_once_however_many_rules_ask():
    record = control(episodes(mean=5.0, late=1.0), steps=40_000)
    record = replace(record, rows=tuple(map(Watched, record.rows)))
    assert "P064" in [d.finding.code.number for d in diagnose(record)]
    assert {row.looked for row in record.rows} == {2}, "by the truth meter, and by all rules together"
    assert learning(replace(record, rows=record.rows[:20])) != learning(record), "another record is another question"


def test_pooled_episodes_have_the_moments_of_all_of_them():
    generator = np.random.default_rng(0)
    parts = [generator.normal(i / 10, 1.0, size=8) for i in range(40)]
    record = control(lambda i: {"ended": 8, "ended_mean": parts[i].mean(), "ended_std": parts[i].std()}, environments=4)
    found = learning(record)
    first = np.concatenate(parts[:4])  # the fewest iterations that have 30 episodes, which are a tenth of all
    assert (found.first.count, found.first.mean) == (32, pytest.approx(first.mean()))
    assert found.first.variance == pytest.approx(first.var(ddof=1))
    last = np.concatenate(parts[28:])
    assert found.last.mean == pytest.approx(last.mean())
    assert found.last.error == pytest.approx(last.std(ddof=1) / np.sqrt(len(last)))
    assert found.improved


def test_one_mean_above_another_is_welchs_statistic():
    sure, size = Returns(10, 3.0, 4.0).above(Returns(20, 1.0, 9.0))
    assert sure == pytest.approx(2.0 / np.sqrt(4 / 10 + 9 / 20))
    assert size == pytest.approx(2.0 / np.sqrt(6.5))
    assert Returns(10, 3.0, 0.0).above(Returns(10, 2.0, 0.0))[0] > 1e6  # all alike, and better
    assert Returns(10, 3.0, 0.0).above(Returns(10, 3.0, 0.0)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("this_side", "that_side"),
    [
        # Less than 0.4 deviations, and the error of the difference is sqrt(1/80 + 1/80) = 0.16: not sure either.
        (control(episodes(late=0.42)), control(episodes(late=0.38))),
        (control(episodes(), steps=205_000), control(episodes(), steps=195_000)),  # a fifth of the budget
        (control(episodes(count=30, at=2), count=5), control(episodes(count=30, at=2), count=6)),
        (control(episodes(count=1), environments=1), control(episodes(count=4), environments=1)),
        (control(episodes(count=4), environments=50), control(episodes(count=4), environments=20)),
    ],
)
def test_it_is_said_from_its_threshold_on(this_side, that_side):
    assert "P046" not in [code for code, _ in seen(this_side)]
    assert seen(that_side) == [("P046", "amber")]


@pytest.mark.parametrize(("spread", "rows"), [(1.0, 3), (30.0, 6)])
def test_the_first_that_end_are_the_short_ones(spread, rows):
    """Episodes of unequal length count once ten of them would follow each other: 1,000 of 1,000 steps in 6 rows."""
    record = control(
        lambda i: episodes(count=8)(i) | {"episode_length": 75.0, "episode_length_std": spread, "step": 1000 * (i + 1)},
        count=80,
        environments=8,
    )
    rising = replace(record, rows=tuple(row | {"ended_mean": 5.0 * i} for i, row in enumerate(record.rows)))
    assert learning(rising).first.count == 8 * max(4, rows)


def test_a_run_that_learns_and_one_that_did_before_are_left_alone():
    assert seen(control(episodes(late=1.0))) == []
    assert learning(control(episodes(late=1.0))).improved
    assert learning(control(episodes(late=1.0, at=4))).improved  # converged within a tenth of the run
    gone = learning(control(lambda i: episodes(late=2.0 if i < 20 else 0.0)(i)))
    assert gone.improved  # learnt, and lost again: another finding's


def test_the_task_itself_is_judged_where_a_wrapper_changes_the_reward():
    rising = episodes(late=1.0)
    still = control(lambda i: rising(i) | {"ended_task_mean": 5.0, "ended_task_std": 1.0})
    assert ("P046", "amber") in seen(still)
    better = control(lambda i: episodes()(i) | {"ended_task_mean": 5.0 if i < 10 else 7.0, "ended_task_std": 1.0})
    assert seen(better) == []


def test_a_reward_that_is_constant_below_a_wrapper_is_named_first():
    same = {"ended_task_mean": 200.0, "ended_task_std": 0.0}
    assert seen(control(lambda i: episodes()(i) | same))[0] == ("P041", "red")
    assert seen(control(lambda i: episodes(late=2.0)(i) | same))[0] == ("P041", "amber")
    assert seen(control(lambda i: episodes(late=2.0)(i) | same | {"ended_task_mean": 200.0 + i})) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [("P046", "red")]),
        (LUCK, [("P046", "amber")]),
        ({"follows": Effect(0.0, 0.01, 0.5, 1.0), **LUCK}, [("P047", "red"), ("P046", "amber")]),
        ({"follows": Effect(0.0, 0.06, 0.5, 1.0), **LUCK}, [("P046", "amber")]),  # too few steps to say so
        ({"follows": Effect(9e-4, 1e-3, 0.005, 9.0), **LUCK}, [("P047", "red"), ("P046", "amber")]),
        ({"follows": Effect(1.1e-3, 1e-2, 0.005, 9.0), **LUCK}, [("P046", "amber")]),
        ({"follows": Effect(0.0, 0.01, 0.5, 1.0)}, [("P046", "red")]),  # returns depend on it, so something does
        ({"foretold": 0.4, "follows": Effect(0.0, 0.01, 0.5, 1.0), **LUCK}, [("P047", "amber"), ("P046", "amber")]),
        ({"foretold": 0.04, "returns_told": 0.04, **LUCK}, [("P048", "amber"), ("P046", "amber")]),
        ({"foretold": 0.06, "returns_told": 0.04, **LUCK}, [("P046", "amber")]),
        ({"constant": True, **LUCK}, [("P048", "amber"), ("P046", "amber")]),
        ({"reward_told": 0.04, **LUCK}, [("P049", "red"), ("P046", "amber")]),
        ({"reward_told": 0.04, "dense": False, **LUCK}, [("P046", "amber")]),
        ({"reward_told": 0.04, "late": (9, 0.9), **LUCK}, [("P057", "amber"), ("P046", "amber")]),
        ({"late": (9, 0.3), "follows": Effect(0.0, 0.01, 0.5, 1.0), **LUCK}, [("P057", "red"), ("P046", "amber")]),
        ({"looks": False}, [("P060", "red"), ("P046", "red")]),
    ],
)
def test_the_likeliest_reason_comes_first(changes, expected):
    assert seen(probed(control(episodes()), **changes)) == expected


def test_where_it_may_have_learnt_the_environment_is_doubted_only():
    unsure = control(episodes(late=0.42))
    assert seen(probed(unsure)) == []
    assert seen(probed(unsure, late=(30, 0.7), follows=Effect(0.0, 0.01, 0.5, 1.0))) == [("P057", "amber")]
    sure = control(episodes(late=1.0))
    assert seen(probed(sure, late=(30, 0.7), follows=Effect(0.0, 0.01, 0.5, 1.0))) == []


@pytest.mark.parametrize(
    ("reason", "record"),
    [
        ("P026", control(episodes(), update={"entropy_coefficient": 0.1})),
        ("P040", control(episodes(observation_max=0.009))),
        ("P031", control(episodes(return_rms=9e-4))),
        ("P033", control(episodes(), gamma=0.94)),
        ("P023", control(episodes(grad_norm=1.1), update={"max_grad_norm": 1e-4})),
    ],
)
def test_settings_that_explain_it_are_named_too(reason, record):
    assert reason in [code for code, _ in seen(record)]
    learnt = replace(record, rows=tuple(row | {"ended_mean": float(i)} for i, row in enumerate(record.rows)))
    assert reason not in [code for code, _ in seen(learnt)]


def test_a_policy_that_begins_sure_is_named():
    assert seen(control(lambda i: {"entropy": 0.06})) == []
    assert seen(control(lambda i: {"entropy": 0.04})) == [("P025", "amber")]
    assert seen(control(episodes(entropy=0.04)))[0] == ("P025", "red")


def test_small_steps_are_right_where_nothing_is_to_be_gained():
    """A policy that is as good as any stays where it is, with a rate as any: amber. If a better one exists: red."""
    still = control(episodes(approx_kl=1e-6, clip_fraction=0.0))
    assert ("P022", "amber") in seen(probed(still, **LUCK))
    assert ("P022", "red") in seen(probed(still))
    unknown = control(lambda i: {"approx_kl": 1e-6, "clip_fraction": 0.0})  # an older version's run, without episodes
    assert ("P022", "red") in seen(probed(unknown, **LUCK))
    slow = control(episodes(approx_kl=1e-6, clip_fraction=0.0), learning_rate=9e-6)
    assert ("P022", "red") in seen(probed(slow, **LUCK))


@pytest.mark.parametrize(
    ("option", "config"),
    [
        ("learning-rate", {"learning_rate": 1e-9}),
        ("adam-epsilon", {"adam_epsilon": 10.0}),
        ("update.max-grad-norm", {"update": {"max_grad_norm": 1e-6}}),
    ],
)
def test_the_setting_that_holds_the_step_back_is_changed(option, config):
    first, *_ = diagnose(control(lambda i: {"approx_kl": 1e-7, "clip_fraction": 0.0}, **config))
    assert (first.finding.code.number, first.finding.severity) == ("P022", "red")
    assert [change.option for change in first.changes] == [option]


def test_a_target_that_no_step_can_keep_is_raised():
    held = control(lambda i: {"stopped_by_kl": 1, "gradient_steps": 1}, update={"target_kl": 1e-6})
    first, *_ = diagnose(held)
    assert (first.finding.code.number, str(first.changes[0])) == ("P022", "--update.target-kl 1e-06 -> 0.03")


def test_a_policy_that_no_update_moves_is_frozen():
    still = {"approx_kl": 0.0, "exact_kl": 0.0, "final_approx_kl": 0.0, "clip_fraction": 0.0}
    assert seen(control(lambda i: still)) == [("P058", "red")]
    assert seen(control(lambda i: still | {"exact_kl": 1e-12 * (i == 3)})) == [("P022", "red")]
    assert seen(control(lambda i: still, learning_rate=1e-12)) == [("P022", "red")]


@pytest.mark.parametrize(("clip", "expected"), [(0.0051, []), (0.0049, [("P059", "red")])])
def test_a_clip_is_too_small_below_half_a_percent(clip, expected):
    assert seen(control(update={"clip": clip})) == expected
    if expected:
        assert seen(control(episodes(late=1.0), update={"clip": clip})) == [("P059", "amber")]


def test_a_fall_that_chance_explains_is_none():
    """The mean of the first few episodes is high by luck."""
    fallen = {"return": 10.0}
    lucky = control(
        lambda i: {"return": 40.0 if i == 1 else 10.0} | episodes(late=0.1, std=30.0)(i) | (fallen if i > 1 else {})
    )
    assert "P043" not in [code for code, _ in seen(lucky)]
    few = control(
        lambda i: {"return": 40.0 if i < 20 else 10.0, "ended": int(i % 20 == 0), "ended_mean": 9.0, "ended_std": 0.0}
    )
    assert seen(few) == []
    real = control(
        lambda i: {
            "return": 40.0 if i < 20 else 10.0,
            "ended": 8,
            "ended_mean": 40.0 if i < 20 else 10.0,
            "ended_std": 5.0,
        }
    )
    assert ("P043", "red") in seen(real)


ROWS, TEAM, FIRST = 200, 75, -26.0


def planted(course, seed=0, rows=ROWS, agents=1, **others):
    """Rows of 75 episodes of 25 steps with a deviation of 8, whose expected return follows a course over the run."""
    generator = np.random.default_rng(seed)
    made = []
    for i in range(rows):
        paid = np.repeat(generator.normal(course(i / ROWS), 8.0, TEAM // agents), agents)
        told = {"return": paid.mean(), "ended": TEAM, "ended_mean": paid.mean(), "ended_std": paid.std()}
        made.append(told | {"step": 1920 * (i + 1), "episode_length": 25.0, "episode_length_std": 0.0} | others)
    return control(lambda i: made[i], count=rows, environments=15, steps=1920 * ROWS)


def live(record):
    """Iterations in which the truth meter says so while the run goes on."""
    return [i for i, verdict in enumerate(record.verdicts) for x in verdict.findings if x.code.number == "P064"]


FALLEN = {
    "at once": lambda t: FIRST - 13 * (t > 0.01),
    "at once, and half of it recovered": lambda t: FIRST - 26 * (t > 0.01) + 13 * t,
    "within the first tenth": lambda t: FIRST - 13 * min(1, t / 0.05),
    "late": lambda t: FIRST - 13 * (t > 0.6),
    "bit by bit": lambda t: FIRST - 13 * t,
    "after it had risen": lambda t: FIRST + (6 if t < 0.5 else -13),
    "far from 0": lambda t: FIRST - 5000 - 13 * (t > 0.3),
}
SOUND = {
    "rises": lambda t: FIRST + 13 * t,
    "rises late": lambda t: FIRST + 13 * (t > 0.8),
    "stays": lambda t: FIRST,
    "dips at once and rises": lambda t: FIRST - 13 * (0.01 < t < 0.15) + 6 * (t > 0.15),
    "dips for long and is on its way up": lambda t: FIRST - 16 * (t > 0.01) + 20 * t,
    "dips for a while near its end": lambda t: FIRST + 5 * (t > 0.1) - 18 * (0.7 < t < 0.8),
    "falls a little": lambda t: FIRST - 2.0 * t,
}


@pytest.mark.parametrize("name", FALLEN)
def test_a_run_that_ends_worse_than_it_began_is_named_while_it_runs_and_afterwards(name):
    for seed in range(3):
        run = planted(FALLEN[name], seed)
        found = [code for code, severity in seen(run) if severity == "red"]
        assert found[0] == "P064"
        assert "P046" not in [code for code, _ in seen(run)], "that it learnt nothing is said better"
        assert live(run)[-1] == ROWS - 1


@pytest.mark.parametrize("name", SOUND)
def test_a_run_that_is_noisy_or_dips_is_not_called_worse_at_any_time(name):
    for seed in range(3):
        assert live(planted(SOUND[name], seed)) == []
    for share in range(5, 21):
        told = learning(planted(SOUND[name], share, rows=ROWS * share // 20))
        assert not told.worse


def test_what_dipped_in_the_last_third_and_is_back_is_not_called_worse():
    assert not learning(planted(lambda t: FIRST - 30 * (0.68 < t < 0.8))).worse
    assert learning(planted(lambda t: FIRST - 30 * (t > 0.88))).worse


def test_what_falls_in_the_last_tenth_is_named_at_the_end():
    run = planted(lambda t: FIRST - 13 * (t > 0.91))
    assert learning(run).worse
    assert live(run) == [ROWS - 1]


def test_an_evaluation_whose_most_probable_actions_are_far_worse_than_the_first_policy_is_named(tmp_path):
    run = replace(planted(SOUND["stays"]), folder=tmp_path)

    def told(mean, episodes=20, **others):
        results = {"episodes": episodes, "final_deterministic": mean, "final_deterministic_std": 8.0, **others}
        (tmp_path / "results.json").write_text(json.dumps(results))
        found = [d for d in diagnose(replace(run)) if d.finding.code.number == "P064"]
        return [(d.finding.severity, d.finding.evidence, [str(x) for x in d.changes]) for d in found]

    assert told(-32.0) == []
    assert told(-39.0, episodes=9) == []
    ((severity, said, changes),) = told(-39.0, final_sampled=-22.0)
    assert severity == "amber"
    assert "sampled actions return -22" in said
    assert "deterministic=False" in changes[0]
    (tmp_path / "results.json").write_text("{torn")
    assert "P064" not in [code for code, _ in seen(replace(run))]


def test_chance_is_not_called_a_fall_also_of_teams_that_are_paid_together():
    """Three agents of one team are one episode: 25 in the first iteration, not 75."""
    few = {"rows": 60, "agents": 3}
    assert sum(learning(planted(SOUND["stays"], seed, **few)).worse for seed in range(100)) == 0
    below = [planted(lambda t: FIRST - (3.4 if t > 0 else 0), seed, **few) for seed in range(30)]
    apart = [planted(lambda t: FIRST - (3.4 if t > 0 else 0), seed, rows=60) for seed in range(30)]
    teams, single = (sum(learning(run).worse for run in runs) for runs in (below, apart))
    assert teams < single


def test_a_task_that_becomes_harder_is_left_alone_where_it_logs_its_level():
    fallen = planted(FALLEN["at once"])
    for name, alone in (("log/Curriculum/terrain", True), ("log/difficulty", True), ("log/water", False)):
        for moves in (True, False):
            rows = tuple(row | {name: float(i > 50 and moves)} for i, row in enumerate(fallen.rows))
            assert learning(replace(fallen, rows=rows)).worse is not (alone and moves), name


def test_the_likeliest_reason_of_a_fall_is_named_with_what_to_change():
    def told(**others):
        (found,) = [d for d in diagnose(planted(FALLEN["at once"], **others)) if d.finding.code.number == "P064"]
        return found.finding.evidence, [str(change) for change in found.changes]

    said, changes = told(approx_kl=0.05)
    assert "first policy -25.08 ± 0.88 (75 episodes), lately -38.59" in said
    assert "its updates are large: KL 0.05 nats" in said
    assert changes[0].startswith("--learning-rate")
    paid = planted(FALLEN["at once"])
    rows = tuple(
        row | {"ended_mean": float(i), "ended_task_mean": row["ended_mean"], "ended_task_std": row["ended_std"]}
        for i, row in enumerate(paid.rows)
    )
    (found,) = [d for d in diagnose(replace(paid, rows=rows)) if d.finding.code.number == "P064"]
    assert "a wrapper's reward, rose meanwhile" in found.finding.evidence
    assert "wrapper" in str(found.changes[0])
