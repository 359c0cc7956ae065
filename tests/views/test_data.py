"""What the page is told of runs that are odd: torn, repeated, empty, not finite, of several kinds."""

import builtins
import json
from math import isfinite

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from records import row, spoken

import proximo
from proximo.control.training.critic_window import CriticWindow
from proximo.core.ratio_bins import BINS, EDGES, ratio_counts, read_counts
from proximo.errors import UserError
from proximo.runs.health import rules
from proximo.views.metrics_texts import TEXTS
from proximo.views.report.data import FIGURES, page_data
from proximo.views.report.page import as_json
from proximo.views.seen import RESULTS, differing, groups_of_seeds, read_runs, rising, short_names


def write(folder, rows, text="", **settings):
    """A run with these rows, and text after the last."""
    folder.mkdir(parents=True)
    given = {"kind": "control", "environment": "CartPole-v1", "seed": 0, **settings}
    (folder / "config.toml").write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rows) + text)
    return folder


def test_torn_lines_and_what_is_not_finite_are_gaps(tmp_path):
    rows = [row(i) for i in range(5)]
    rows[2] |= {"approx_kl": None, "not_finite": ["approx_kl"]}
    rows[3] |= {"approx_kl": float("nan"), "entropy": float("inf")}  # as a stranger's tool may write them
    page = page_data(read_runs([write(tmp_path / "run", rows, '{"step": 6000, "ti')]))
    drawn = page["runs"][0]["series"]["approx_kl"]
    assert drawn["x"] == [1000, 2000, 3000, 4000, 5000]
    assert drawn["y"] == [0.01, 0.01, None, None, 0.01]
    as_json(page)  # refuses what is not finite


def test_steps_that_were_done_again_count_once_as_they_were_done_last(tmp_path):
    again = [{**row(i), "return": 7.0} for i in (1, 2)]
    run = read_runs([write(tmp_path / "run", [*map(row, range(4)), *again])])[0]
    assert [(x["step"], x["return"]) for x in run.rows] == [(1000, 10.0), (2000, 7.0), (3000, 7.0)]


def test_seeds_of_a_language_run_are_one_group_though_each_names_models_of_its_own(tmp_path):
    for seed in range(2):
        folder = tmp_path / f"m-{seed}"
        own = {"run": str(folder / "ppo"), "policy": str(folder / "sft"), "judge": str(folder / "judge")}
        write(folder / "ppo", [row(0)], kind="language", **own, seed=seed)
        with open(folder / "ppo" / "config.toml", "a") as file:
            file.write(f'[rewards]\n"{folder}/reward" = 1.0\n"my_code:reward" = 0.5\n')
    runs = read_runs([tmp_path / "m-0" / "ppo", tmp_path / "m-1" / "ppo"])
    assert differing(runs) == ["seed"]
    assert groups_of_seeds(runs) == [[0, 1]]
    assert (runs[0].settings["policy"], runs[0].settings["rewards.reward"]) == ("sft", 1.0)
    assert runs[0].settings["run"] == str(tmp_path / "m-0" / "ppo")
    (tmp_path / "m-1").rename(tmp_path / "moved")
    assert groups_of_seeds(read_runs([tmp_path / "m-0" / "ppo", tmp_path / "moved" / "ppo"])) == [[0, 1]]
    file = tmp_path / "moved" / "ppo" / "config.toml"
    file.write_text(file.read_text().replace("/sft", "/other"))
    assert groups_of_seeds(read_runs([tmp_path / "m-0" / "ppo", tmp_path / "moved" / "ppo"])) == [[0], [1]]


@given(st.lists(st.integers(0, 50), max_size=60))
def test_what_is_left_of_any_rows_rises_and_ends_with_the_last(steps):
    kept = [x["step"] for x in rising([{"step": s} for s in steps])]
    assert kept == sorted(set(kept))
    assert kept[-1:] == steps[-1:]
    assert set(kept) <= set(steps)


def test_a_run_without_an_iteration_and_one_that_failed_are_said(tmp_path):
    empty, failed = write(tmp_path / "empty", []), tmp_path / "failed"
    write(failed, [row(0), {"step": 1000, "time": 1.0, "error": "not-finite: the loss", "health": "red"}])
    page = page_data(read_runs([empty, failed]))
    assert [run["state"] for run in page["runs"]] == ["empty", "failed"]
    assert page["runs"][1]["error"] == "not-finite: the loss"
    assert "No iteration has ended yet in empty." in page["notes"]


def test_runs_of_one_name_and_of_several_tasks_are_told_apart(tmp_path):
    folders = [
        write(tmp_path / "a" / "run", [row(0), row(1)]),
        write(tmp_path / "b" / "run", [row(0), row(1)], environment="Pendulum-v1"),
        write(tmp_path / "c" / "run", [spoken(0), spoken(1)], kind="language", prompts="/data/films.jsonl"),
    ]
    page = page_data(read_runs(folders))
    assert [run["name"] for run in page["runs"]] == ["a/run", "b/run", "c/run"]
    assert [run["task"] for run in page["runs"]] == ["CartPole-v1", "Pendulum-v1", "language: films.jsonl"]
    assert [run["result"] for run in page["runs"]] == ["return", "return", "score"]
    assert [run["unit"] for run in page["runs"]] == ["environment steps", "environment steps", "responses"]
    assert len(page["groups"]) == 3


@given(st.lists(st.lists(st.sampled_from("ab"), min_size=1, max_size=4), min_size=1, max_size=6))
def test_short_names_are_different_for_different_folders(tmp_path_factory, paths):
    root = tmp_path_factory.getbasetemp()
    folders = list(dict.fromkeys(root.joinpath(*parts) for parts in paths))
    assert len(set(short_names(folders))) == len(folders)


@pytest.mark.parametrize(
    ("results", "told"),
    [
        ({"accuracy": 0.72, "accuracy_se": 0.021, "pairs": 5400}, {"held-out accuracy": "0.72 ± 0.021, 5,400 pairs"}),
        ({"validation_loss_before": 3.5, "validation_loss": 3.25}, {"held-out loss": "3.5 to 3.25"}),
        ({"validation_loss_before": None, "validation_loss": None}, {}),
    ],
)
def test_what_data_that_was_kept_apart_says_is_a_headline(tmp_path, results, told):
    run = write(tmp_path / "reward", [{"step": 1, "time": 1.0, "loss": 0.7, "accuracy": 0.9}], kind="language")
    (run / "results.json").write_text(json.dumps(results))
    headline = {label: text for label, text, _ in page_data(read_runs([run]))["runs"][0]["headline"]}
    assert {label: text for label, text in headline.items() if label.startswith("held-out")} == told


def test_a_judge_that_looked_before_and_after_alone_is_a_headline(tmp_path):
    run = write(tmp_path / "run", [spoken(i) for i in range(3)], kind="language")
    (run / "results.json").write_text(json.dumps({"judge_first": 0.05, "judge_last": 0.17}))
    told = {label: text for label, text, _ in page_data(read_runs([run]))["runs"][0]["headline"]}
    assert told["judge"] == "0.05 to 0.17"


def test_runs_of_one_folder_are_named_alike(tmp_path):
    folders = [tmp_path / name for name in ("a/seed-0", "b/seed-0", "b/seed-1", "c/other")]
    assert short_names(folders) == ["a/seed-0", "b/seed-0", "b/seed-1", "other"]


def test_a_name_can_not_turn_the_sentence_that_it_stands_in(tmp_path):
    folders = [write(tmp_path / name, [], seed=0) for name in ("a\u202eb", "c\nd\x1b[2J")]
    page = page_data(read_runs(folders))
    assert [run["name"] for run in page["runs"]] == ["a\\u202eb", "c⏎d\\x1b[2J"]
    assert all(note.isprintable() for note in page["notes"])


def test_a_whole_number_that_no_float_has_room_for_is_a_gap(tmp_path):
    rows = [{**row(i), "return": 10**400 if i == 1 else 5.0} for i in range(3)]
    drawn = page_data(read_runs([write(tmp_path / "run", rows)]))["runs"][0]
    assert drawn["series"]["return"]["y"] == [5.0, None, 5.0]


def test_seeds_are_one_curve_with_an_interval_that_holds_all_of_equal_runs(tmp_path):
    folders = [write(tmp_path / f"s{i}", [{**row(k), "return": 10.0 * k} for k in range(9)], seed=i) for i in range(4)]
    group = page_data(read_runs(folders))["groups"][0]
    curve = group["curve"]
    assert group["runs"] == [0, 1, 2, 3]
    assert (curve["x"][0], curve["x"][-1]) == (1000, 9000)
    line = pytest.approx([10.0 * (x / 1000 - 1) for x in curve["x"]], abs=0.01)
    assert curve["y"] == curve["low"] == curve["high"] == line


def test_a_seed_that_was_run_twice_counts_once(tmp_path):
    folders = [write(tmp_path / f"r{i}", [row(k) for k in range(9)], seed=i // 2) for i in range(4)]
    page = page_data(read_runs(folders))
    assert page["groups"][0]["curve"]["runs"] == [1, 3]
    assert any("counts each seed once" in note for note in page["notes"])
    assert page_data(read_runs(folders[:2]))["groups"][0]["curve"] is None


def test_without_rliable_the_single_lines_are_drawn_and_the_way_to_it_is_said(tmp_path, monkeypatch):
    importing = builtins.__import__

    def refuse(name, *rest, **named):
        if name.startswith("rliable"):
            raise ImportError(name)
        return importing(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    folders = [write(tmp_path / f"s{i}", [row(k) for k in range(9)], seed=i) for i in range(3)]
    page = page_data(read_runs(folders))
    assert page["groups"][0]["curve"] is None
    assert any("pip install 'proximo[lab]'" in note for note in page["notes"])
    with pytest.raises(UserError, match="rliable is not installed"):
        proximo.compare(folders[:1], folders[1:])


def test_every_metric_that_is_drawn_has_its_sentence_and_bands_are_those_of_the_rules():
    drawn = {name for _, metrics in FIGURES for name in metrics} | set(RESULTS)
    assert drawn <= set(TEXTS)
    assert all(text.sentence.endswith(".") and text.sentence.count(". ") == 0 for text in TEXTS.values())
    band = TEXTS["approx_kl"].band
    assert (band.high, band.red) == rules.APPROX_KL
    seen = {"approx_kl": 2 * band.high}
    assert [finding.severity for finding in rules.step_size(seen, rules.History())] == ["amber"]
    assert not list(rules.step_size({"approx_kl": 0.99 * band.high}, rules.History()))


def test_a_critic_that_says_the_mean_of_the_returns_lies_on_the_edge_of_both_its_bands():
    window, returns = CriticWindow(), torch.linspace(-3.0, 5.0, 101)
    window.add(returns.mean().expand(101), returns, torch.ones(101), 1)
    seen = window.measured()
    assert TEXTS["critic_error"].band.high == pytest.approx(seen["critic_error"])
    assert TEXTS["explained_variance"].band.low == pytest.approx(seen["explained_variance"], abs=1e-6)


def test_the_exact_kl_is_healthy_where_its_estimate_is(tmp_path):
    rows = [{**row(k), "exact_kl": 0.01, "final_approx_kl": 0.01} for k in range(3)]
    drawn = page_data(read_runs([write(tmp_path / "run", rows)]))["runs"][0]["series"]
    assert drawn["exact_kl"]["band"] == drawn["final_approx_kl"]["band"] == [None, *rules.FINAL_KL]


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=50), st.floats(0.05, 0.9))
def test_ratios_are_counted_where_the_clip_says(log_ratios, clip):
    log_ratios = np.array(log_ratios)
    ratio = np.exp(log_ratios)
    clear = (np.abs(ratio - (1 + clip)) > 1e-6) & (np.abs(ratio - (1 - clip)) > 1e-6)
    counts = read_counts(ratio_counts(log_ratios[clear], clip)) or [0] * BINS
    above, below = sum(counts[EDGES.index(1.0) + 1 :]), sum(counts[: EDGES.index(-1.0) + 1])
    assert above == (ratio[clear] > 1 + clip).sum()
    assert below == (ratio[clear] < 1 - clip).sum()
    assert sum(counts) == clear.sum()


def test_counts_of_strangers_are_no_counts():
    for recorded in (None, "", "1 2 3", "x " * BINS, " ".join(["-1"] * BINS), " ".join(["0"] * BINS), 7, ["1"] * BINS):
        assert read_counts(recorded) is None
    assert sum(read_counts(ratio_counts(np.array([np.nan, 0.0, np.inf, -np.inf]), None))) == 3
    assert all(map(isfinite, EDGES))
