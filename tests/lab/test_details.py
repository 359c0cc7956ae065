"""The factorial is balanced, finds what was planted and nothing else, and refuses what is no detail."""

import json
from itertools import combinations

import numpy as np
import pytest

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.lab.experiments.details import SEEDS, Details
from proximo.lab.factorial import LEVELS, changed, design, found, short
from proximo.lab.policies import settings


@pytest.mark.parametrize(("count", "runs"), [(1, 2), (2, 4), (3, 8), (4, 8), (5, 16), (8, 16)])
def test_every_factor_is_balanced_and_clear_of_every_pair(count, runs):
    names = [f"x{i}" for i in range(count)]
    plan = design(names)
    assert len(plan) == runs
    signs = {name: np.array([2 * levels[name] - 1 for levels in plan.values()]) for name in names}
    for name in names:
        assert signs[name].sum() == 0
    for a, b in combinations(names, 2):
        assert signs[a] @ signs[b] == 0
        for c in set(names) - {a, b}:
            assert signs[c] @ (signs[a] * signs[b]) == 0, "what two do together is in the effect of no third"


def test_it_finds_what_was_planted_beside_noise_of_the_seeds_and_what_two_do_together():
    experiment = Details(details=["value_clip", "max_grad_norm", "rewards"])
    draw = np.random.default_rng(0)
    planted = []
    for seed in range(6):
        easy = draw.normal(0, 30)
        for arm, on in experiment.design.items():
            clip, norm, rewards = (on[name] for name in experiment.details)
            score = 500 + easy + 100 * rewards - 60 * clip + 40 * clip * norm
            planted.append({"arm": arm, "seed": seed, "start": 0.0, "score": score + draw.normal(0, 1)})
    unit = 500 + 50 - 30 + 10 + np.mean([0])
    judged = experiment.judged(planted)
    effects = [each.verdict.effect for each in judged]
    assert effects[0:6:2] == pytest.approx([-40 / unit, 20 / unit, 100 / unit], abs=0.01)
    assert [each.verdict.word == "supported" for each in judged] == [False, True, False, False, True, False, False]
    table = experiment.shown(judged).splitlines()
    assert [line.split("|")[-2].strip() for line in table[2:]] == [
        "worse with it",
        "no difference that matters",
        "better with it",
        "not supported",
    ]


def test_where_nothing_was_learnt_nothing_is_judged():
    experiment = Details()
    rows = [{"arm": arm, "seed": seed, "start": 20.0, "score": 20.0} for arm in experiment.arms() for seed in (0, 1)]
    with pytest.raises(UserError, match="nothing was learnt in 60,000 steps of CartPole-v1"):
        experiment.judged(rows)


@pytest.mark.parametrize("task", ["CartPole-v1", "HalfCheetah-v5"])
@pytest.mark.parametrize("setting", LEVELS)
def test_each_detail_is_a_setting_and_moves_nothing_else(setting, task):
    usual = settings(task)
    without, with_it = (changed(usual, setting, level) for level in (0, 1))
    assert without != with_it
    part = setting.partition(".")[0]
    for config in (without, with_it):
        differing = {name for name in vars(usual) if getattr(config, name) != getattr(usual, name)}
        assert differing <= {part}


def test_a_learning_rate_starts_where_the_presets_does():
    usual = settings("CartPole-v1")
    assert [changed(usual, "learning_rate", level).learning_rate for level in (0, 1)] == [0.002, "0.002 -> 0"]


def test_details_are_named_by_path_or_by_their_last_word():
    assert found(["value_clip", "normalizers.rewards"]) == ("update.value_clip", "normalizers.rewards")
    assert len({short(setting) for setting in LEVELS}) == len(LEVELS)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "which task?"),
        (
            ["CartPole-v1", "--details", "value_clip,magic"],
            "there is no detail 'magic': there are value_clip, recompute",
        ),
        (
            ["CartPole-v1", "--details", "value_clip,update.value_clip"],
            "1 to 7 different settings, not value_clip, value",
        ),
        (["CartPole-v1", "--details", ","], "1 to 7 different settings, not none"),
        (["CartPole-v1", "--steps", "0"], "steps = 0 must be at least 1"),
        (["CartPole-v1", "--seeds", "1"], "seeds = 1 must be 2 or more"),
    ],
)
def test_what_can_not_be_ablated_is_one_sentence(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", "ablate", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_ablate_prints_a_table_and_keeps_its_runs_by_task(tmp_path, capsys):
    command = ["lab", "ablate", "CartPole-v1", "--details", "orthogonal", "--quick", "--steps", "3000"]
    assert main([*command, "--out", str(tmp_path)]) in (0, 1)
    told = capsys.readouterr()
    assert "| `network.orthogonal` | false | true |" in told.out
    assert "--details orthogonal --steps 3000 --seeds 2" in told.out
    rows = [json.loads(x) for x in (tmp_path / "details" / "CartPole-v1-3000" / "quick.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    assert {row["levels"][SEEDS] for row in rows} == {0, 1}
    page = (tmp_path / "details" / "CartPole-v1-3000" / "details.md").read_text()
    assert "| `network.orthogonal` |" in page
