"""Every example runs, in reduced size, and does what it says."""

import importlib.util
from pathlib import Path

import pytest
import tiny
from words import word_tokenizer

import proximo

EXAMPLES = Path(__file__).parents[1] / "examples"


def example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_example_is_longer_than_a_screen():
    for file in EXAMPLES.glob("*.py"):
        assert len(file.read_text().splitlines()) <= 40, file.name


def test_a_loop_of_ones_own_prints_each_iteration(tmp_path, capsys):
    run = example("own_loop").main(4096, str(tmp_path / "run"))
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(proximo.metrics(run.path))
    assert all(" steps  " in line and " KL " in line for line in told)


def test_callbacks_count_and_would_stop(tmp_path):
    module = example("callbacks")
    run = module.main(4096, str(tmp_path / "run"))
    counts = [row["good_iterations"] for row in proximo.metrics(run.path)]
    assert counts == sorted(counts)
    assert module.stop_when_good(None, {"return": None})
    assert not module.stop_when_good(None, {"return": 480.0})


def test_schedules_are_followed(tmp_path):
    run = example("own_schedule").main(4096, str(tmp_path / "run"))
    rates = [row["learning_rate"] for row in proximo.metrics(run.path)]
    assert rates[0] < max(rates) <= 1e-3, "it warms up"
    assert run.config.update.clip == "0.3 -> 0.1"


def test_three_seeds_are_three_runs(tmp_path, capsys):
    finals = example("three_seeds").main(4096, str(tmp_path / "runs"))
    assert list(finals) == [0, 1, 2]
    assert capsys.readouterr().out.count("seed ") == 3


def test_a_reward_of_ones_own_scores_each_response_and_is_watched(tmp_path):
    tiny.llama(64, layers=3).save_pretrained(tmp_path / "model")
    word_tokenizer().save_pretrained(tmp_path / "model")
    module = example("own_reward")
    assert module.on_topic(["?"] * 2, ["It will Rain", "no"], topic=["rain", "sea"]) == [1 - 3 / 50, -1 / 50]
    run = module.main(str(tmp_path / "model"), 64, str(tmp_path / "run"))
    rows = proximo.metrics(run.path)
    assert [row["step"] for row in rows] == [32, 64]
    assert all(0 < row["words"] <= 24 for row in rows)
    assert rows[0]["reward/on_topic"] == rows[0]["score"] < 0


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.py")), ids=lambda file: file.stem)
def test_each_example_is_shown_in_the_docs(file):
    assert f"examples/{file.name}" in (EXAMPLES.parent / "docs" / "building-on-proximo.md").read_text("utf-8")
