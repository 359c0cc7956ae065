"""A training iterated by the user's own loop, with callbacks: the same run, its numbers recorded, its stops saved."""

import json
import os
import signal
import subprocess
import sys

import numpy as np
import own_modules
import pytest
import torch
import warm
from same_runs import same_runs, same_tensors

import proximo
from proximo.core.schedules import Schedule
from proximo.runs import new_process
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.schedules import Cosine, Linear, Piecewise

SMALL = {
    "environments": 4,
    "rollout_length": 16,
    "steps": 64 * 6,
    "checkpoint_every": 128,
    "seed": 3,
    "episodes": 1,
    "episode_limit": 50,
}
SMALL |= {"update": {"epochs": 1, "minibatch_size": 32}, "network": {"hidden": [8]}, "backend": "gymnasium"}
SMALL |= {"progress": "quiet"}


def trainer(folder, **settings):
    return proximo.Trainer("CartPole-v1", run=folder, **{**SMALL, **settings})


def test_a_loop_is_the_run_that_train_makes(tmp_path):
    whole = proximo.train("CartPole-v1", run=tmp_path / "train", **SMALL)
    looped = trainer(tmp_path / "loop")
    rows = list(looped)
    assert looped.run.results["steps"] == whole.results["steps"]
    same_runs(whole, looped.run)
    written = proximo.metrics(looped.run.path)
    assert [row["step"] for row in rows] == [row["step"] for row in written]
    assert rows[-1]["policy_loss"] == written[-1]["policy_loss"]


def test_a_loop_that_is_left_is_saved_and_iterating_again_resumes_it_exactly(tmp_path):
    whole = proximo.train("CartPole-v1", run=tmp_path / "train", **SMALL)
    left = trainer(tmp_path / "left")
    for i, _ in enumerate(left):
        if i == 2:
            break
    assert left.run is None
    assert latest_checkpoint(tmp_path / "left" / "checkpoints").name.endswith(str(left.step))
    steps = [row["step"] for row in left]
    assert len(steps) == 3, "only what was left to do"
    same_runs(whole, left.run)


SCRIPT = """
import json, sys, proximo
rows = iter(proximo.Trainer("CartPole-v1", run=sys.argv[1], **json.loads(sys.argv[2])))
print([next(rows)["step"] for _ in range(3)])
"""


def test_a_script_that_ends_with_its_iteration_open_leaves_a_checkpoint(tmp_path):
    """In a real interpreter that ends: when it frees `rows` there are no modules any more."""
    whole = proximo.train("CartPole-v1", run=tmp_path / "train", **SMALL)
    left = tmp_path / "left"
    command = [sys.executable, "-c", SCRIPT, str(left), json.dumps(SMALL)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[64, 128, 192]\n", "")
    assert latest_checkpoint(left / "checkpoints").name.endswith("192")
    ended = trainer(left).to_the_end()
    # Not all of their state: it holds this process's global generators, which the script did not have.
    final, other = (load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (whole, ended))
    same_tensors(final, other)
    assert [row["step"] for row in proximo.metrics(left)] == [64, 128, 192, 256, 320, 384]


FORKS = """
import json, os, sys, proximo
class Odd(proximo.Callback):
    def state(self):
        raise ValueError("a state that can not be told")
rows = iter(proximo.Trainer("CartPole-v1", run=sys.argv[1], **json.loads(sys.argv[2])))
next(rows)
if os.fork() == 0:
    sys.exit(0)
os.wait()
print(len(os.listdir(sys.argv[1] + "/checkpoints")))
odd = iter(proximo.Trainer("CartPole-v1", run=sys.argv[1] + "-odd", callbacks=[Odd()], **json.loads(sys.argv[2])))
next(odd)
"""


def test_a_forked_child_saves_nothing_of_its_parents_run_and_what_can_not_be_saved_is_said(tmp_path):
    command = [sys.executable, "-c", FORKS, str(tmp_path / "run"), json.dumps(SMALL)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
    assert "a training that the script left open could not be saved: a state that can not be told" in done.stderr
    assert latest_checkpoint(tmp_path / "run" / "checkpoints").name.endswith("64"), (
        "the other one is saved all the same"
    )


def test_a_fresh_run_that_is_left_and_taken_up_again_goes_on(tmp_path):
    proximo.train("CartPole-v1", run=tmp_path / "run", **SMALL)
    left = trainer(tmp_path / "run", fresh=True)
    steps = [next(row["step"] for row in left)]
    steps += [row["step"] for row in left]
    assert steps == [64, 128, 192, 256, 320, 384]
    assert list(left) == []
    assert left.run.finished_before


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"progress": "silent"}, "progress = 'silent' must be one of auto, live, plain, quiet"),
        ({"progress": "Quiet"}, "progress = 'Quiet' must be 'quiet'"),
        ({"stop_at": "8"}, "stop_at = '8' must be a whole number, at least 0"),
        ({"allow_change": "yes"}, "allow_change = 'yes' must be True or False"),
    ],
)
def test_a_word_that_there_is_not_is_refused_before_anything_is_written(tmp_path, change, sentence):
    with pytest.raises(proximo.UserError, match=f"^{sentence}$"):
        trainer(tmp_path / "run", **change)
    assert not (tmp_path / "run").exists()


@pytest.fixture
def _interruptible():
    """Ctrl-C as in a terminal: a program that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
def test_ctrl_c_in_the_body_of_the_loop_ends_it_after_the_iteration_and_loses_nothing(tmp_path):
    whole = proximo.train("CartPole-v1", run=tmp_path / "train", **SMALL)
    asked = trainer(tmp_path / "asked")
    for i, _ in enumerate(asked):
        if i == 1:
            os.kill(os.getpid(), signal.SIGINT)
    assert asked.run.stopped == "SIGINT"
    assert asked.to_the_end().stopped is None
    same_runs(whole, asked.run)


def test_a_trainer_can_be_stopped_and_asked_for_its_policy(tmp_path):
    running = trainer(tmp_path / "run")
    with pytest.raises(proximo.UserError, match="no policy before the first iteration"):
        running.policy  # noqa: B018
    for _ in running:
        assert running.policy.act(np.zeros(4, np.float32)) in (0, 1)
        running.stop()
    assert running.run.stopped == "trainer.stop()"
    assert running.step == running.run.results["steps"] < SMALL["steps"]


def test_a_function_is_called_after_each_iteration_and_may_add_numbers_and_end_the_training(tmp_path):
    def watch(trainer, metrics):
        seen.append(trainer.step)
        metrics["mine/double"] = 2 * metrics["step"]
        metrics["mine/tensor"] = torch.tensor(0.5)
        return len(seen) < 3

    seen = []
    run = proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[watch], **SMALL)
    rows = proximo.metrics(run.path)
    assert len(seen) == len(rows) == 3
    assert [row["mine/double"] for row in rows] == [2 * row["step"] for row in rows]
    assert rows[0]["mine/tensor"] == 0.5
    assert run.stopped is None
    assert run.results["steps"] == rows[-1]["step"] < SMALL["steps"]
    assert run.results["ended_by"].endswith("watch")
    assert proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[watch], **SMALL).finished_before


@pytest.mark.parametrize("answer", [None, True, 0, 0.0, "", np.float32(0)])
def test_only_a_boolean_ends_a_training(tmp_path, answer):
    run = proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[lambda *_: answer], **SMALL)
    assert "ended_by" not in run.results


class Counting(proximo.Callback):
    """Counts iterations over a stop, and notes what it is told."""

    def __init__(self):
        self.count, self.told = 0, []

    def start(self, trainer):
        self.told.append("start")

    def iteration(self, trainer, metrics):
        self.count += 1
        metrics["count"] = self.count

    def checkpoint(self, trainer, path):
        tensors, state = load_checkpoint(path)
        assert tensors
        self.told.append(state["callbacks"])

    def finish(self, trainer, results):
        assert results["steps"] == trainer.step
        self.told.append("finish")

    def state(self):
        return {"count": self.count}

    def load(self, state):
        self.count = state["count"]


def test_a_callback_with_a_state_goes_on_counting_where_the_run_resumes(tmp_path):
    first, second, whole = Counting(), Counting(), Counting()
    proximo.train("CartPole-v1", run=tmp_path / "whole", callbacks=[whole], **SMALL)
    run = proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[first], stop_at=192, **SMALL)
    assert run.stopped == "stop-at"
    assert first.told[0] == "start"
    assert first.told[-1] == {"0 Counting": {"count": first.count}}
    proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[second], **SMALL)
    assert [row["count"] for row in proximo.metrics(tmp_path / "run")] == list(range(1, whole.count + 1))
    assert second.told[-1] == whole.told[-1] == "finish"


def test_an_error_in_a_callback_reaches_the_user_and_loses_nothing(tmp_path):
    def broken(trainer, metrics):
        if trainer.step > 128:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[broken], **SMALL)
    _, state = load_checkpoint(latest_checkpoint(tmp_path / "run" / "checkpoints"))
    assert state["progress"]["steps"] > 128
    whole = proximo.train("CartPole-v1", run=tmp_path / "whole", **SMALL)
    resumed = proximo.train("CartPole-v1", run=tmp_path / "run", **SMALL)
    assert resumed.results["steps"] == whole.results["steps"]
    assert resumed.results["final_deterministic"] == whole.results["final_deterministic"]
    steps = [[row["step"] for row in proximo.metrics(run.path)] for run in (whole, resumed)]
    assert steps[0] == steps[1], "the iteration that it failed after is recorded"


@pytest.mark.parametrize(
    ("callback", "sentence"),
    [
        (Counting, "Counting is a class: give an instance"),
        (3, "a callback is a function of trainer and metrics or a proximo.Callback, and not a int"),
    ],
)
def test_what_is_no_callback_is_refused_before_anything_is_made(tmp_path, callback, sentence):
    with pytest.raises(proximo.UserError, match=sentence):
        proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[callback], **SMALL)
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_no_number_is_refused_by_name(tmp_path):
    def texts(trainer, metrics):
        metrics["mine"] = "good"

    with pytest.raises(proximo.UserError, match=r"put a str into metrics\['mine'\]: a metric is a number"):
        proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[texts], **SMALL)


@pytest.mark.parametrize("state", [{"a": {1, 2}}, {"a": (1, 2)}, {1: "a"}, {"a": float("nan")}])
def test_a_state_that_would_not_come_back_is_refused(tmp_path, state):
    class Odd(proximo.Callback):
        def state(self):
            return state

    with pytest.raises(proximo.UserError, match=r"the state of callback .*Odd can not be stored as JSON"):
        proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[Odd()], **SMALL)


def test_own_numbers_are_shown_in_the_console(tmp_path, capfd):
    def own(trainer, metrics):
        metrics["my_number"] = 41.5

    proximo.train("CartPole-v1", run=tmp_path / "run", callbacks=[own], **{**SMALL, "progress": "plain"})
    assert "my_number 41.5" in capfd.readouterr().err


def test_statistics_of_a_loss_of_ones_own_are_shown_in_the_console_and_no_others(tmp_path, capfd):
    plan = {**SMALL, "progress": "plain"}
    proximo.train("CartPole-v1", own_modules.Anchored, run=tmp_path / "own", **plan)
    ours = capfd.readouterr().err
    proximo.train("CartPole-v1", run=tmp_path / "run", **plan)
    theirs = capfd.readouterr().err
    rows = ([line for line in text.splitlines() if "| KL " in line][-1] for text in (ours, theirs))
    columns = [[part.split()[0] for part in row.split(" | ")[1:]] for row in rows]
    assert [name for name in columns[0] if name.isalpha() and name not in columns[1]] == ["anchor"]


def test_what_is_asked_of_a_run_on_disk_is_what_the_command_line_prints(tmp_path, capfd):
    from proximo.cli.main import main

    run = proximo.train("CartPole-v1", run=tmp_path / "run", **SMALL)
    capfd.readouterr()
    for verb, ours in (
        (["evaluate", "--episodes", "2"], proximo.evaluate(run.path, 2)),
        (["doctor"], proximo.diagnose(run.path).plain()),
        (["replay"], {"run": str(run.path), **proximo.replay(run.path).describe()}),
    ):
        capfd.readouterr()
        main([verb[0], str(run.path), *verb[1:], "--json"])
        assert json.loads(capfd.readouterr().out) == json.loads(json.dumps(ours))
    assert proximo.replay(run.path).exact
    assert "CartPole-v1" in str(proximo.diagnose("CartPole-v1"))


@pytest.mark.parametrize(
    "schedule", [Cosine(1e-2, warmup=0.2), lambda p: 1e-2 * (1 - p) ** 2, Piecewise({0: 1e-2, 0.5: 1e-3})]
)
def test_a_schedule_given_from_python_is_followed_stored_and_resumed(tmp_path, schedule):
    run = proximo.train("CartPole-v1", run=tmp_path / "run", learning_rate=schedule, stop_at=192, **SMALL)
    run = proximo.train("CartPole-v1", run=run.path, learning_rate=schedule, **SMALL)
    rows = proximo.metrics(run.path)
    steps = [0, *(row["step"] for row in rows[:-1])]
    expected = [Schedule.parse(schedule).at(step / SMALL["steps"]) for step in steps]
    assert [row["learning_rate"] for row in rows] == pytest.approx(expected)
    assert proximo.replay(run.path).exact


def test_clip_and_entropy_bonus_take_schedules_too(tmp_path):
    update = {**SMALL["update"], "clip": Linear(0.3, 0.1), "entropy_coefficient": lambda p: 0.01 * (1 - p)}
    run = proximo.train("CartPole-v1", run=tmp_path / "run", **{**SMALL, "update": update})
    assert run.config.update.clip == "0.3 -> 0.1"
    assert Schedule.parse(run.config.update.entropy_coefficient).at(0.25) == pytest.approx(0.0075)
    rows = proximo.metrics(run.path)
    begun = [step / SMALL["steps"] for step in (0, *(row["step"] for row in rows[:-1]))]
    assert [row["clip"] for row in rows] == pytest.approx([0.3 - 0.2 * share for share in begun])
    assert [row["entropy_coefficient"] for row in rows] == pytest.approx([0.01 * (1 - share) for share in begun])


def test_a_schedule_that_can_not_be_is_refused_in_one_sentence(tmp_path):
    with pytest.raises(proximo.UserError, match=r"learning_rate.* must be finite and at least 0"):
        proximo.train("CartPole-v1", run=tmp_path / "run", learning_rate=lambda p: 0.5 - p, **SMALL)
    with pytest.raises(proximo.UserError, match="a function of progress failed or gave no number: float"):
        proximo.train("CartPole-v1", run=tmp_path / "run", learning_rate=lambda p: 1e-4 / p, **SMALL)


def test_a_run_that_was_finished_before_says_so_and_the_screens_are_text(tmp_path, capfd, monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    run = proximo.train("CartPole-v1", run=tmp_path / "run", **SMALL)
    capfd.readouterr()
    assert list(trainer(tmp_path / "run", progress="plain")) == []
    assert f"{run.path} was finished before: nothing is trained" in capfd.readouterr().err
    shown = str(proximo.replay(run.path, change="clip=0.1"))
    assert "the same as in the run, bit for bit" in shown.splitlines()[0]
    assert "change of the weights (L2)" in shown
    assert "resumes exactly" in str(proximo.verify_resume(run.path))


def test_a_rate_that_the_kl_steers_begins_without_its_warm_up_and_the_schedule_is_said(tmp_path, capsys):
    trainer = proximo.Trainer(
        "CartPole-v1", run=tmp_path / "run", progress="plain", steps=512, environments=2, rollout_length=64,
        backend="gymnasium", learning_rate="cosine 1e-3 -> 0 warmup 0.5", update={"adaptive_kl": 0.01},
    )  # fmt: skip
    rates = [row["learning_rate"] for row in trainer]
    assert min(rates) > 1e-5
    assert "is followed no further than its beginning" in capsys.readouterr().err
