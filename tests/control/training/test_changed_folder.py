"""An environment that changes the working directory, as simulators do to find their models."""

import os

import gymnasium
import pytest

import proximo
from proximo.errors import UserError
from proximo.runs.storage.metrics import read_metrics

FEW = {"steps": 128, "environments": 1, "rollout_length": 32, "update": {"minibatch_size": 32}}
FEW |= {"backend": "gymnasium", "progress": "quiet", "episodes": 1}


class Moving(gymnasium.Wrapper):
    """CartPole that goes to another folder when it is made, reset or stepped for the 70th time."""

    def __init__(self, goal, when):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.goal, self.when, self.count = goal, when, 0
        self.move("made")

    def move(self, now):
        if now == self.when:
            os.chdir(self.goal)

    def step(self, action):
        self.count += 1
        self.move(self.count)
        return super().step(action)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    here.mkdir()
    elsewhere.mkdir()
    monkeypatch.chdir(here)
    return here, elsewhere


def test_a_run_lies_where_the_command_was_given_whatever_folder_its_environment_goes_to(folders):
    here, elsewhere = folders
    run = proximo.train(lambda: Moving(elsewhere, "made"), run="mine/one", **FEW)
    assert list(elsewhere.iterdir()) == []
    assert (here / "mine" / "one" / "results.json").is_file()
    assert run.path.is_absolute()
    assert proximo.load(run.path).act([0.0, 0.0, 0.0, 0.0]) in (0, 1)


def test_one_that_goes_there_amid_a_run_is_refused_with_the_way_on_and_nothing_is_lost(folders):
    here, elsewhere = folders
    with pytest.raises(UserError, match=f"working directory to {elsewhere}.*--run {here / 'mine'} "):
        proximo.train(lambda: Moving(elsewhere, 70), run="mine", **FEW)
    assert list(elsewhere.iterdir()) == []
    assert [x.name for x in (here / "mine" / "checkpoints").iterdir()] == ["step-000000000096"]
    assert [row["step"] for row in read_metrics(here / "mine" / "metrics.jsonl")] == [64, 96]
    run = proximo.train(lambda: Moving(elsewhere, 70), run=here / "mine", **FEW)
    assert run.results["steps"] == 128
    assert list(elsewhere.iterdir()) == []


def test_a_loop_that_was_left_goes_on_in_the_same_folder(folders):
    here, elsewhere = folders
    trainer = proximo.Trainer(lambda: Moving(elsewhere, "made"), run="mine", **FEW)
    for _ in trainer:
        break
    assert [row["step"] for row in trainer] == [96, 128]
    assert list(elsewhere.iterdir()) == []
    assert {x.name for x in here.iterdir()} == {"mine"}
