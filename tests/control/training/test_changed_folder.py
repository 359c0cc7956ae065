"""An environment that changes the working directory, as simulators do to find their models."""

import os

import gymnasium
import pytest

import proximo
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
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


def saved_at(run):
    tensors, _ = load_checkpoint(latest_checkpoint(run / "checkpoints"))
    return {name: x for name, x in tensors.items() if name.startswith(("policy/", "optimizer/"))}


@pytest.mark.parametrize(("when", "rows"), [(1, []), (70, [64, 96])])
def test_one_that_goes_there_amid_a_run_is_refused_with_the_way_on_and_nothing_is_lost(folders, when, rows):
    here, elsewhere = folders
    with pytest.raises(UserError, match=f"working directory to {elsewhere}.*--run {here / 'mine'} "):
        proximo.train(lambda: Moving(elsewhere, when), run="mine", **FEW)
    assert list(elsewhere.iterdir()) == []
    assert [row["step"] for row in read_metrics(here / "mine" / "metrics.jsonl")] == rows
    if rows:  # what is saved is what had been learnt by then, and not what was before it
        straight = proximo.train(lambda: Moving(elsewhere, None), run=here / "straight", stop_at=rows[-1], **FEW)
        there, whole = saved_at(here / "mine"), saved_at(straight.path)
        assert there.keys() == whole.keys()
        assert all(there[name].equal(whole[name]) for name in whole)
    run = proximo.train(lambda: Moving(elsewhere, when), run=here / "mine", **FEW)
    assert run.results["steps"] == 128
    assert list(elsewhere.iterdir()) == []


def test_a_callback_that_goes_there_is_refused_too(folders):
    here, elsewhere = folders
    moves = [lambda trainer, metrics: os.chdir(elsewhere)]
    with pytest.raises(UserError, match=f"working directory to {elsewhere}.*--run {here / 'mine'} "):
        proximo.train("CartPole-v1", run="mine", callbacks=moves, **FEW)
    assert list(elsewhere.iterdir()) == []
    assert len(read_metrics(here / "mine" / "metrics.jsonl")) == 1


def test_a_loop_that_was_left_goes_on_in_the_same_folder(folders):
    here, elsewhere = folders
    trainer = proximo.Trainer(lambda: Moving(elsewhere, "made"), run="mine", **FEW)
    for _ in trainer:
        break
    assert [row["step"] for row in trainer] == [96, 128]
    assert list(elsewhere.iterdir()) == []
    assert {x.name for x in here.iterdir()} == {"mine"}
