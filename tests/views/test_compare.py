"""`proximo compare` on runs whose answer is planted."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import proximo
from proximo.cli import main as cli
from proximo.errors import UserError
from proximo.views.compare import FEWEST, mean_between
from proximo.views.seeds import difference, interquartile_mean, probability_of_improvement
from proximo.views.seen import read_runs


def planted(folder: Path, seed: int, returns, *, steps=None, rate=0.001, environment="CartPole-v1") -> Path:
    """A run with these returns, evenly over its steps."""
    folder.mkdir(parents=True)
    settings = (
        f'kind = "control"\nenvironment = "{environment}"\nseed = {seed}\nlearning_rate = {rate}\nrun = "{folder}"\n'
    )
    (folder / "config.toml").write_text(settings)
    steps = steps or [1000 * (i + 1) for i in range(len(returns))]
    rows = [{"step": s, "time": s / 1000, "return": x} for s, x in zip(steps, returns, strict=True)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "results.json").write_text("{}")
    return folder


def side(folder: Path, levels, **options) -> list[Path]:
    """Runs that rise from 0 to each of the levels and stay there for the last half of their steps."""
    curves = [np.concatenate([np.linspace(0, level, 10), np.full(10, level)]).tolist() for level in levels]
    return [planted(folder / f"s{seed}", seed, curve, **options) for seed, curve in enumerate(curves)]


def test_a_clear_difference_is_told_with_its_size_and_its_cause(tmp_path):
    a = side(tmp_path / "a", [100, 102, 104, 106, 108])
    b = side(tmp_path / "b", [50, 51, 52, 53, 54], rate=0.1)
    found = proximo.compare(a, b)
    final, area = found.scores
    assert final.iqm_a.value == pytest.approx(104)  # the middle three of five
    assert final.iqm_b.value == pytest.approx(52)
    assert final.difference.value == pytest.approx(52)
    assert final.difference.low > 40
    assert final.improvement.value == 1.0
    # From 0 at step 1,000 to the level at 10,000, and flat to 20,000: (9 / 2 + 10) / 19 of the level.
    assert area.a[0] == pytest.approx(100 * 14.5 / 19)
    assert found.differs == (("learning_rate", "0.001", "0.1"),)
    assert found.verdict.startswith("A is better: the final scores, A less B, differ by 52 ")
    assert proximo.compare(b, a).verdict.startswith("B is better")


def test_final_is_the_last_tenth_and_area_is_all_of_it(tmp_path):
    lines = [planted(tmp_path / f"{side}{i}", i, list(range(21)), rate=side) for side in (1, 2) for i in range(3)]
    final, area = proximo.compare(lines[:3], lines[3:]).scores
    assert final.a == pytest.approx([19.0] * 3)  # the middle of 18 to 20
    assert area.a == pytest.approx([10.0] * 3)


def test_equal_settings_and_too_few_seeds_are_not_told_apart(tmp_path):
    a, b = side(tmp_path / "a", [100, 110, 120, 130]), side(tmp_path / "b", [101, 109, 121, 129])
    assert proximo.compare(a, b).verdict.startswith("too few seeds to tell (4 and 4)")
    clear = side(tmp_path / "c", [1, 2, 3], rate=0.1)
    assert proximo.compare(a[:3], clear).verdict.startswith("too few seeds to tell (3 and 3)")
    assert "no setting differs but the seed" in str(proximo.compare(a, b))


def test_one_run_on_a_side_has_no_interval(tmp_path):
    a, b = side(tmp_path / "a", [9]), side(tmp_path / "b", [1, 2], rate=0.1)
    for left, right, intervals in ((a, b, 1), (a, b[:1], 0)):
        lines = str(proximo.compare(left, right)).split("final:")[1].split("area:")[0]
        assert lines.count("95 %") == intervals  # of B alone
        assert lines.count("(one run, so no interval)") == 4 - intervals


def test_only_steps_that_all_runs_have_are_compared(tmp_path):
    a = side(tmp_path / "a", [10, 10, 10])
    long = [planted(tmp_path / f"b{i}", i, [10] * 20 + [10_000] * 20, rate=0.1) for i in range(3)]
    found = proximo.compare(a, long)
    assert (found.first_step, found.last_step) == (1000, 20_000)
    assert found.scores[0].improvement.value == 0.5


@pytest.mark.parametrize(
    ("name", "verdict", "probability"),
    [
        ("loss", "B is better", 0.0),
        ("critic_error", "B is better", 0.0),
        ("kl", "B is better", 0.0),
        ("duplicates", "B is better", 0.0),
        ("judge", "A is better", 1.0),
        ("approx_kl", "A is higher", 1.0),
        ("my/loss", "A is higher", 1.0),
    ],
)
def test_what_is_better_follows_from_the_metric_and_is_not_guessed(tmp_path, name, verdict, probability):
    runs = side(tmp_path / "a", [3, 3.1, 3.2, 3.3]), side(tmp_path / "b", [1, 1.1, 1.2, 1.3], rate=0.1)
    for folder in (*runs[0], *runs[1]):
        file = folder / "metrics.jsonl"
        file.write_text(file.read_text().replace('"return"', f'"{name}"'))
    found = proximo.compare(*runs, metric=name)
    assert found.verdict.startswith(verdict)
    assert found.scores[0].improvement.value == probability
    assert ("does better" if "better" in verdict else "A is higher than B with probability") in str(found)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": 0.5}, "the runs of A differ in learning_rate"),
        ({"environment": "Pendulum-v1"}, "the runs of A differ in environment"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, change, said):
    a, b = side(tmp_path / "a", [1, 2, 3]), side(tmp_path / "b", [1, 2, 3], rate=0.1)
    odd = planted(tmp_path / "odd", 7, [1, 2, 3], **change)
    with pytest.raises(UserError, match=said):
        proximo.compare([*a, odd], b)


def test_what_says_nothing_is_refused_with_the_reason(tmp_path):
    a, b = side(tmp_path / "a", [1, 2, 3]), side(tmp_path / "b", [1, 2, 3], rate=0.1)
    again = planted(tmp_path / "again", 1, [1, 2, 3])
    elsewhere = side(tmp_path / "c", [1, 2, 3], environment="Pendulum-v1")
    later = [planted(tmp_path / f"later{i}", i, [1, 2], steps=[10**6, 2 * 10**6], rate=0.1) for i in range(3)]
    for left, right, said in (
        (a, [*b, a[0]], f"{re.escape(str(a[0]))} was given twice"),
        ([*a, again], b, "seed 1 stands 2 times in A"),
        (a, elsewhere, "CartPole-v1 and Pendulum-v1 can not be compared"),
        (a, later, "no steps in common"),
        (a, [], "one side has no run"),
    ):
        with pytest.raises(UserError, match=said):
            proximo.compare(left, right)


def test_a_metric_or_a_run_that_there_is_not_is_named_with_what_there_is(tmp_path):
    a, b = side(tmp_path / "a", [1, 2, 3]), side(tmp_path / "b", [1, 2, 3], rate=0.1)
    with pytest.raises(UserError, match=r"has no metric 'retrun': did you mean return\?"):
        proximo.compare(a, b, metric="retrun")
    for rows, said in (([], "has no iteration yet"), ([1], "has 1 value of return, and 2 are needed")):
        with pytest.raises(UserError, match=said):
            proximo.compare([planted(tmp_path / f"short-{len(rows)}", 0, rows)], b)
    with pytest.raises(UserError, match=r"holds no run itself, but others below it: give one of them, as .*a/s0$"):
        proximo.compare([tmp_path / "a"], b)


def test_the_folder_of_all_seeds_stands_for_them(tmp_path):
    for name, rate, level in (("a", 0.1, 9), ("b", 0.2, 5)):
        for seed in (10, 2, -1, 0):
            planted(tmp_path / name / f"seed-{seed}", seed, [level + 0.01 * seed] * 3, rate=rate)
        (tmp_path / name / "seed-of-doubt").mkdir()
    found = proximo.compare(tmp_path / "a", tmp_path / "b")
    assert found.runs_a == ("a/seed--1", "a/seed-0", "a/seed-2", "a/seed-10")
    assert found.verdict.startswith("A is better")
    assert [run.name for run in read_runs([tmp_path / "a"])] == ["seed--1", "seed-0", "seed-2", "seed-10"]


def test_the_command_takes_two_sides(tmp_path, capsys):
    a, b = side(tmp_path / "a", [9] * 4), side(tmp_path / "b", [1, 2, 3, 4], rate=0.1)
    assert cli.main(["compare", *map(str, a), "--", *map(str, b), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"].startswith("A is better")
    assert cli.main(["compare", *map(str, a)]) == 2
    assert "two sides with -- between them" in capsys.readouterr().err


@given(
    st.lists(st.integers(0, 1000), min_size=2, max_size=20, unique=True).map(sorted),
    st.floats(-5, 5),
    st.floats(-5, 5),
)
def test_the_mean_of_a_line_is_its_middle(x, slope, start):
    x = np.array(x, np.float64)
    low, high = x[0] + 0.3 * (x[-1] - x[0]), x[-1]
    mean = mean_between(x, start + slope * x, low, high)
    assert mean == pytest.approx(start + slope * (low + high) / 2, rel=1e-9, abs=1e-7)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(100):
        estimate = interquartile_mean(rng.normal(5.0, 1.0, 20))
        held += estimate.low <= 5.0 <= estimate.high
    assert 85 <= held <= 100  # percentile bootstraps of 20 fall short of 95 % by a few
    assert probability_of_improvement([1, 2, 3], [1, 2, 3]).value == 0.5
    assert probability_of_improvement([3, 4], [1, 3.5]).value == 0.75


def test_with_the_fewest_seeds_equal_sides_are_rarely_called_different():
    rng = np.random.default_rng(0)
    found = [difference(rng.normal(size=FEWEST), rng.normal(size=FEWEST)) for _ in range(400)]
    assert np.mean([not x.low <= 0 <= x.high for x in found]) < 0.12  # 3 seeds: 0.22
