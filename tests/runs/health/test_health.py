"""The truth meter on rows made by hand: what is named, how red, when, and that a resumed run is judged alike."""

import json
import re

import numpy as np
import pytest
import torch
from health_rows import RESPONSES, SOUND, judged

from proximo.cli.main import main
from proximo.control.config import TrainConfig
from proximo.core.batch import Batch
from proximo.core.invariants import InvariantError, check_batch, check_first_ratio
from proximo.language.ppo_config import PPOConfig
from proximo.runs.config.toml import to_toml
from proximo.runs.console.progress import HEALTH, Progress
from proximo.runs.health import CODES, TruthMeter, colours, found, verdict_on_error
from proximo.runs.health.codes import PAGES
from proximo.runs.session.recorder import Recorder
from proximo.runs.storage.metrics import MetricsWriter


def test_sound_rows_are_green():
    for verdict in judged([{**SOUND, **RESPONSES}] * 50):
        assert (verdict.health, verdict.line, verdict.row) == ("green", "green", {"health": "green", "findings": ""})


@pytest.mark.parametrize(
    ("number", "severity", "changes"),
    [
        ("P010", "red", {"normalizers_moved": 1e-9}),
        ("P011", "red", {"normalizers_still": 1}),
        ("P013", "red", {"reset_row_weight": 1.0}),
        ("P014", "red", {"truncations_missed": 1}),
        ("P016", "amber", {"sampler_gap": 0.05}),
        ("P016", "red", {"sampler_gap": 0.3}),
        ("P020", "amber", {"approx_kl": 0.5}),
        ("P020", "red", {"approx_kl": 5.0}),
        ("P020", "amber", {"approx_kl": 0.0, "final_approx_kl": 0.5}),
        ("P020", "red", {"approx_kl": 0.0, "final_approx_kl": 5.0}),
        ("P020", "amber", {"stopped_by_kl": 1, "gradient_steps": 1}),
        ("P020", "amber", {"clip_fraction": 0.8}),
        ("P031", "amber", {"value_rms": 1e3}),
        ("P025", "amber", {"entropy": 0.01}),
        ("P025", "amber", {"std": 0.001}),
        ("P027", "amber", {"clipped_actions": 0.9}),
        ("P031", "amber", {"return_rms": 1e3}),
        ("P031", "red", {"return_rms": 1e5}),
        ("P040", "amber", {"observation_rms": 100.0}),
        ("P040", "red", {"observation_rms": 1e4}),
        ("P051", "amber", {"kl": 30.0}),
        ("P052", "amber", {"finished": 0.0}),
        ("P053", "amber", {"response_length": 60.0}),
        ("P053", "amber", {"response_length": 5.0}),
        ("P054", "amber", {"duplicates": 0.5}),
    ],
)
def test_one_iteration_is_enough_to_see(number, severity, changes):
    before = {**SOUND, **RESPONSES, "std": 0.5} if "std" in changes else {**SOUND, **RESPONSES}
    *_, verdict = judged([before] * 10 + [{**before, **changes}])
    assert [(f.code.number, f.severity) for f in verdict.findings] == [(number, severity)]


@pytest.mark.parametrize(
    ("name", "number", "amber", "red"),
    [
        ("approx_kl", "P020", 0.1, 1.0),
        ("final_approx_kl", "P020", 0.3, 3.0),
        ("clip_fraction", "P020", 0.7, None),
        ("sampler_gap", "P016", 0.02, 0.1),
        ("observation_rms", "P040", 30.0, 300.0),
        ("return_rms", "P031", 500.0, 5000.0),
        ("value_rms", "P031", 500.0, 5000.0),
        ("clipped_actions", "P027", 0.8, None),
        ("duplicates", "P054", 0.3, None),
        ("kl", "P051", 20.0, 60.0),
        ("response_length", "P053", 40.0, None),
        ("ratio_deviation", "P012", 1e-4, None),
    ],
)
def test_where_amber_and_red_begin(name, number, amber, red):
    for value, expected in ((amber, []), (red, [(number, "amber")] if red else None)):
        for nudge, colour in ((0.99, expected), (1.01, [(number, "amber" if value is amber else "red")])):
            if value is not None and colour is not None:
                *_, verdict = judged([{**SOUND, **RESPONSES}] * 6 + [{**SOUND, **RESPONSES, name: value * nudge}])
                assert [(f.code.number, f.severity) for f in verdict.findings] == colour, (value, nudge)


@pytest.mark.parametrize(
    ("name", "number", "least", "first"),
    [
        ("finished", "P052", 0.1, 0.9),
        ("entropy", "P025", 0.02, 1.0),
        ("response_length", "P053", 10.0, 20.0),
    ],
)
def test_where_too_little_begins(name, number, least, first):
    for value, expected in ((least + abs(least) * 0.01, []), (least - abs(least) * 0.01, [number])):
        *_, verdict = judged([{**SOUND, **RESPONSES, name: first}] * 6 + [{**SOUND, **RESPONSES, name: value}])
        assert [f.code.number for f in verdict.findings] == expected, value


@pytest.mark.parametrize(("start", "step", "expected"), [(300.0, 2.9, []), (300.0, 3.3, ["P045"]), (2000.0, 10.0, [])])
def test_memory_must_grow_by_a_fifth_and_100_mb(start, step, expected):
    *_, verdict = judged([{**SOUND, "memory_mb": start + step * i} for i in range(33)])
    assert [f.code.number for f in verdict.findings] == expected


@pytest.mark.parametrize(
    ("number", "iterations", "row"),
    [
        ("P012", 6, lambda i: {"ratio_deviation": 1e-6 if i < 5 else 5e-4}),
        ("P014", 2, lambda i: {"truncations_faked": 2}),
        ("P015", 5, lambda i: {"kl": -1.0}),
        ("P017", 4, lambda i: {"episode_length_std": 0.0, "truncations": 0}),
        ("P023", 6, lambda i: {"grad_norm": 500.0}),
        ("P028", 16, lambda i: {"std_stuck": 2, "std": 0.3, "learning_rate": 1e-3}),
        ("P030", 21, lambda i: {"explained_variance": -0.5}),
        ("P045", 33, lambda i: {"memory_mb": 500.0 + 10 * i}),
        ("P045", 258, lambda i: {"memory_mb": 500.0 + 2 * i}),
        ("P055", 2, lambda i: {"score_std": 0.0}),
        ("P056", 8, lambda i: {"informative_rewards": 0.04, "commonest_reward": 0.0, "best_reward": 1.0}),
    ],
)
def test_what_takes_some_iterations_is_seen_then_and_not_before(number, iterations, row):
    verdicts = judged([{**SOUND, **RESPONSES, **row(i)} for i in range(iterations)])
    seen = [[f.code.number for f in verdict.findings] for verdict in verdicts]
    assert seen == [[]] * (iterations - 1) + [[number]]


@pytest.mark.parametrize(
    "row",
    [
        lambda i: {"episode_length_std": 0.0, "terminations": 0},  # a time limit that says so
        lambda i: {"memory_mb": 500.0 if i < 20 else 900.0},  # one large object, once
        lambda i: {"memory_mb": 500.0 + 200 * (1 - np.exp(-i / 60))},  # a cache that fills
        lambda i: {"memory_mb": 5000.0 + 0.5 * i},  # a fifth is far
        lambda i: {"explained_variance": -0.5, "return_std": 0.01},  # nothing to explain
        lambda i: {"explained_variance": None},
        lambda i: {"informative_rewards": 0.06, "commonest_reward": 0.0, "best_reward": 1.0},
        lambda i: {"informative_rewards": 0.4 * (i % 8 == 0), "commonest_reward": 0.0, "best_reward": 1.0},
        lambda i: {"std_stuck": int(i % 16 > 0), "std": 0.3, "learning_rate": 1e-3},  # it moved now and then
        lambda i: {"std_stuck": 2, "std": 0.3, "learning_rate": 0.0},  # nothing moves
        lambda i: {"kl": -0.1 if i % 2 else 0.1},
    ],
)
def test_what_only_looks_like_it_is_green(row):
    assert {v.health for v in judged([{**SOUND, **RESPONSES, **row(i)} for i in range(600)])} == {"green"}


def test_the_worst_is_named_first_and_red_before_amber():
    *_, verdict = judged([SOUND, {**SOUND, "approx_kl": 5.0, "reset_row_weight": 1.0, "clipped_actions": 0.9}])
    assert [f.code.number for f in verdict.findings] == ["P013", "P020", "P027"]
    assert verdict.line == "red P013 reset-rows-learnt"
    assert verdict.row["findings"] == "P013 reset-rows-learnt; P020 step-too-large; P027 actions-at-bounds (amber)"
    assert colours(verdict.row) == {f.code.number: f.severity for f in verdict.findings}
    assert colours(verdict_on_error(RuntimeError("not-finite: a loss")).row) == {"P001": "red"}
    assert found("P013", "amber", "").rank > found("P045", "red", "").rank


def test_each_finding_is_told_once_and_again_when_it_turns_red():
    meter = TruthMeter()
    told = [meter.news(meter.judge({**SOUND, "approx_kl": kl})) for kl in (0.01, 0.5, 0.5, 5.0, 0.01, 0.5)]
    assert [len(sentences) for sentences in told] == [0, 1, 0, 1, 0, 0]
    assert told[3][0].startswith("red P020 step-too-large: ")
    assert "KL 5 nats" in told[3][0]
    assert CODES["P020"].more in told[3][0]


def test_the_error_of_an_invariant_is_a_red_verdict():
    with pytest.raises(InvariantError) as error:
        check_first_ratio(0.5, 1e-3)
    assert verdict_on_error(error.value).line == "red P012 ratio-not-one"
    with pytest.raises(InvariantError) as error:
        check_batch(Batch({}, *[torch.zeros(2)] * 6))
    assert verdict_on_error(error.value).line == "red P002 weights"


def recorder(folder, progress=None):
    return Recorder(MetricsWriter(folder, tensorboard=False), progress or Progress("t", 10, mode="quiet"))


def test_a_resumed_run_is_judged_as_one_that_never_stopped(tmp_path):
    rows = [{**SOUND, "explained_variance": -0.5 + 0.01 * i, "memory_mb": 500.0 + 9 * i} for i in range(40)]
    through, parts = tmp_path / "through", tmp_path / "parts"
    for folder, cuts in ((through, [40]), (parts, [7, 25, 40])):
        folder.mkdir()
        start = 0
        for end in cuts:
            with (now := recorder(folder)).metrics:
                for step in range(start, end):
                    now.iteration(step, rows[step])
            start = end
    seen = [[json.loads(line) for line in (f / "metrics.jsonl").read_text().splitlines()] for f in (through, parts)]
    findings = [[row["findings"] for row in run] for run in seen]
    assert findings[0] == findings[1]
    assert "P030" in findings[0][-1]
    assert "P045" in findings[0][-1]


def test_a_resumed_run_forgets_the_error_that_ended_it(tmp_path):
    with (now := recorder(tmp_path)).metrics:
        now.iteration(1, SOUND)
        now.failure(1, InvariantError("ratio-not-one: off by 1"))
    with (again := recorder(tmp_path)).metrics:
        again.metrics.truncate_after(1)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["health"] for row in rows] == ["green"]


def test_the_console_shows_the_verdict_and_says_why(tmp_path, capsys):
    with Progress("t", 10, mode="plain", every_seconds=0.0, columns=(HEALTH,)) as progress:
        now = recorder(tmp_path, progress)
        now.iteration(1, SOUND)
        now.iteration(2, {**SOUND, "approx_kl": 5.0})
        now.failure(3, InvariantError("ratio-not-one: off by 1"))
        now.metrics.close()
    said = capsys.readouterr().err
    assert "| health green" in said
    assert "| health red P020 step-too-large" in said
    assert "red P020 step-too-large: the policy changes too much in one update (KL 5 nats" in said
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert (last["health"], last["findings"], last["error"]) == (
        "red",
        "P012 ratio-not-one",
        "ratio-not-one: off by 1",
    )


def test_every_code_has_its_page_and_every_page_its_code():
    assert set(PAGES.glob("*.md")) == {PAGES / "README.md", *(code.page for code in CODES.values())}
    for code in CODES.values():
        text = code.page.read_text()
        assert text.startswith(f"# {code.label}\n")
        for part in ("What you see", "What it means", "Why it happens", "What to change first"):
            assert f"**{part}.**" in text, (code.label, part)
    linked = re.findall(r"^\| \[(.+)\]\((.+)\) \| (.+) \|$", (PAGES / "README.md").read_text(), re.MULTILINE)
    assert linked == [(code.label, code.page.name, code.cause) for code in CODES.values()]


@pytest.mark.parametrize("typed", ["P020", "p020", "P020-step-too-large"])
def test_the_doctor_prints_the_page_of_a_code(capsys, typed):
    """Which a wheel holds too; the repository's documentation it does not."""
    assert main(["doctor", typed]) == 0
    said = capsys.readouterr().out
    assert CODES["P020"].page.read_text().startswith(said.rstrip())
    assert said.endswith("Fewer `--update.epochs`.\n"), "without the link, which is the site's"
    assert main(["doctor", "P999"]) == 2
    assert "there is no finding P999" in capsys.readouterr().err


def test_every_option_that_a_page_names_exists():
    known = "\n".join(to_toml(config) for config in (TrainConfig(), PPOConfig()))
    named = {option for page in PAGES.glob("*.md") for option in re.findall(r"--([a-z][\w.-]+)", page.read_text())}
    assert len(named) > 15
    for option in named:
        name = option.rpartition(".")[2].removeprefix("no-").replace("-", "_")
        assert re.search(rf"^{name} = ", known, re.MULTILINE), option


@pytest.mark.parametrize(("common", "severity"), [(0.0, "red"), (1.0, "amber")])
def test_a_task_that_is_nearly_always_solved_is_not_as_bad_as_one_that_never_is(common, severity):
    row = {**RESPONSES, "informative_rewards": 0.02, "commonest_reward": common, "best_reward": 1.0}
    *_, verdict = judged([row] * 8)
    assert [(f.code.number, f.severity) for f in verdict.findings] == [("P056", severity)]
    assert "2.0% of the rewards differ from " + f"{common:g}" in verdict.findings[0].evidence
