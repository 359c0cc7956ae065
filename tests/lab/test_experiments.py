"""Experiments run, resume and judge; what was planted in their rows is what their verdicts say."""

import functools
import json
from typing import ClassVar

import pytest
from planted_lab import HOLDS, rows

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.lab.experiment import Claim, Experiment, Text, run
from proximo.lab.experiments import EXPERIMENTS, bias_variance, cliff, find
from proximo.lab.experiments.cliff import ALONE, WITH, WITHOUT
from proximo.lab.language import runs


class Coin(Experiment):
    """Measures nothing but how often it is asked."""

    name = "cliff"
    asked: ClassVar[list] = []

    def arms(self):
        return ["a", "b"]

    def measure(self, arm, seed):
        self.asked.append((arm, seed))
        if len(self.asked) == 4:
            raise KeyboardInterrupt
        return {"x": seed + 10.0 * (arm == "b")}

    def claims(self):
        return [
            Claim("b is larger.", lambda arms: arms["b"]["x"] - arms["a"]["x"], 1.0),
            Claim("a is larger.", lambda arms: arms["a"]["x"] - arms["b"]["x"], 1.0, control=True),
        ]

    def draw(self, axes, rows):
        axes.plot([row["x"] for row in rows])


def test_an_interrupted_experiment_goes_on_and_measures_nothing_twice(tmp_path):
    coin = Coin()
    Coin.asked = []
    with pytest.raises(KeyboardInterrupt):
        run(coin, tmp_path, 3, lambda _: None)
    found = run(coin, tmp_path, 3, lambda _: None)
    assert [(row["arm"], row["seed"]) for row in found] == [(arm, seed) for seed in range(3) for arm in "ab"]
    assert len(Coin.asked) == 7, "six measurements, one of which was begun twice"
    verdicts = coin.judged(found)
    assert [each.verdict.word for each in verdicts] == ["supported", "not supported"]
    assert all(each.sound for each in verdicts)


class Weighty(Coin):
    """Leaves a run with weights for each measurement, and is interrupted in the second one."""

    interrupted = True

    def measure(self, arm, seed):
        folder = self.run_folder(f"{arm}-{seed}")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("metrics.jsonl", "model.safetensors"):
            (folder / name).write_text("")
        if arm == "b" and self.interrupted:
            raise KeyboardInterrupt
        return {"x": 0.0}


def test_weights_go_once_their_measurement_is_written_and_no_sooner(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(Weighty(), tmp_path, 2, lambda _: None)
    assert [file.parent.name for file in tmp_path.rglob("*.safetensors")] == ["b-0"], "a resumed run needs them"
    Weighty.interrupted = False
    run(Weighty(), tmp_path, 2, lambda _: None)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert len(list(tmp_path.rglob("metrics.jsonl"))) == 4


def test_a_control_that_is_supported_is_not_sound(tmp_path):
    planted = [{"arm": arm, "seed": seed, "x": 5.0 * (arm == "a")} for seed in range(3) for arm in "ab"]
    assert [each.sound for each in Coin().judged(planted)] == [True, False]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_verdicts_are_those_of_a_planted_answer(name):
    experiment = find(name)()
    judged = experiment.judged(rows(experiment, holds=True))
    assert judged[-1].claim.control
    assert tuple(each.verdict.word == "supported" for each in judged) == HOLDS[name]
    assert all(each.verdict.word == "not supported" for each in experiment.judged(rows(experiment, holds=False)))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_with_fewer_arms_nothing_is_claimed_of_those_that_it_lacks(name):
    experiment = find(name)(quick=True)
    judged = experiment.judged(rows(experiment, holds=True))
    assert judged[0].verdict.word == "supported"
    assert [each.verdict.word for each in judged if each.claim.control] == ["not supported"]


def shorten(patch):
    """Every arm of every quick form is still measured, on fewer responses, episodes and iterations."""
    train = runs.train
    patch.setattr(runs, "train", lambda *given, responses, **more: train(*given, responses=128, **more))
    patch.setattr(cliff, "mean_return", functools.partial(cliff.mean_return, episodes=4))
    patch.setattr(bias_variance, "TRAINED", bias_variance.TRAINED / 2)


@pytest.mark.parametrize("size", ["shorter", pytest.param("whole", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_its_quick_form_runs_and_leaves_a_page_with_its_figure(name, size, tmp_path, capsys, monkeypatch):
    """Measured with one seed of its two; what the other one finds is planted, and is what the first one found."""
    if size == "shorter":
        shorten(monkeypatch)
    experiment, file = find(name)(quick=True), tmp_path / name / "quick.jsonl"

    def stop_after_one_seed(_):
        if len(file.read_text().splitlines()) == len(experiment.arms()):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(experiment, file.parent, None, stop_after_one_seed)
    measured = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["seed"] for row in measured} == {0}
    planted = "".join(json.dumps({**row, "seed": seed}) + "\n" for seed in (0, 1) for row in measured)
    file.write_text(planted)
    command = ["lab", "run", name, "--quick", "--out", str(tmp_path), "--docs", str(tmp_path / "docs"), "--json"]
    assert main(command) in (0, 1)
    told = json.loads(capsys.readouterr().out)
    assert {claim["word"] for claim in told["claims"]} <= {"supported", "not supported", "undecided"}
    page = (tmp_path / "docs" / f"{name}.md").read_text()
    assert page.startswith(f"# {Text.of(name).question}")
    assert "Control, which must not be supported" in page
    assert "<svg" in (tmp_path / "docs" / f"{name}.svg").read_text()
    assert file.read_text() == planted, "nothing is measured again"


def test_every_text_has_its_parts():
    for name in EXPERIMENTS:
        text = Text.of(name)
        assert text.question.endswith("?")
        assert text.meaning.count("\n\n") == 2, "three paragraphs"
        assert text.expected
        assert text.protocol


def test_the_arms_of_the_cliff_share_what_they_start_from():
    assert set(find("cliff")().arms()) == {WITH, WITHOUT, ALONE}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run"], "which experiment? One of cliff"),
        (["run", "clif"], "did you mean cliff?"),
        (["run", "cliff", "--seeds", "1"], "seeds = 1 must be 2 or more"),
        (["rnu"], "did you mean run?"),
    ],
)
def test_what_is_not_there_is_one_sentence(arguments, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["lab", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_rows_that_can_not_be_read_are_named(tmp_path):
    (tmp_path / "full.jsonl").write_text("{nonsense\n")
    with pytest.raises(UserError, match="does not hold an experiment's rows"):
        run(Coin(), tmp_path, 2, lambda _: None)
