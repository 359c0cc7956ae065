"""Fine-tuning, reward model and judge go on after a stop or a kill as if nothing had been."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rlhf_commands import run

from proximo.errors import UserError
from proximo.language.config import RewardConfig, SFTConfig
from proximo.language.supervised.judge import train_judge
from proximo.language.supervised.reward import RewardTraining, train_reward
from proximo.language.supervised.sft import SFTTraining, train_sft
from proximo.language.supervised.training import SupervisedTraining, run_steps
from proximo.runs.session.opening import Call
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.runs.storage.metrics import read_metrics

SAMPLES = {"standardise_rows": 16, "response_limit": 8}
STAGES = {
    "sft": (train_sft, SFTConfig, {"validation_rows": 5}),
    "sft frozen": (train_sft, SFTConfig, {"freeze": 1}),
    "reward": (train_reward, RewardConfig, {"head_learning_rate": 1e-2, **SAMPLES}),
    "reward frozen": (train_reward, RewardConfig, {"freeze": 1, "layers": 2, **SAMPLES}),
    "judge": (train_judge, RewardConfig, {}),
}


EACH_LOSS = pytest.mark.parametrize("stage", ["sft", "reward"], indirect=True)
"""What is the same for a judge and with frozen layers is asked of these two."""


@pytest.fixture(params=STAGES)
def stage(request, files, tiny_folder, tiny_encoder):
    """What trains a stage in a folder of this name."""
    train, cls, settings = STAGES[request.param]
    data = str(files / ("sft.jsonl" if cls is SFTConfig else "pairs.jsonl"))
    model = tiny_encoder if request.param == "judge" else tiny_folder
    config = cls(
        model=str(model),
        data=data,
        validation=data,
        batch=5,
        epochs=3,
        learning_rate=1e-2,
        checkpoint_every=4,
        **settings,
    )

    def trained(name, changes=None, **call):
        output = replace(config, output=str(files / name), **(changes or {}))
        return train(output, console="quiet", call=Call(**call)), files / name

    return trained


def same(one, other):
    (first, mine), (second, theirs) = one, other
    assert {k: v for k, v in first.items() if k != "seconds"} == {k: v for k, v in second.items() if k != "seconds"}
    clock = ("time", "tokens_per_second", "final/seconds")
    rows = [[{k: v for k, v in row.items() if k not in clock} for row in metrics(x)] for x in (mine, theirs)]
    assert rows[0] == rows[1]
    assert (mine / "model.safetensors").read_bytes() == (theirs / "model.safetensors").read_bytes()
    assert not (theirs / "checkpoints").exists(), "a model that is done needs none"


def metrics(folder):
    return read_metrics(folder / "metrics.jsonl")


def test_a_stage_that_is_stopped_or_killed_goes_on_as_if_it_had_not_been(stage, monkeypatch):
    whole = stage("whole")
    assert whole[0]["steps"] == 15
    for stop_at in (0, 3, 6, 8):
        told, folder = stage("stopped", stop_at=stop_at)
        assert told == {"stopped": "stop-at", "steps": stop_at}
        assert not (folder / "model.safetensors").exists()
    same(whole, stage("stopped"))
    iterate = SupervisedTraining.iterate

    def dying(self):
        if self.steps == 11:
            raise MemoryError("the machine is gone")
        return iterate(self)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTraining, "iterate", dying)
        with pytest.raises(MemoryError):
            stage("killed")
    assert metrics(Path(whole[1]).with_name("killed"))[-1]["step"] == 11
    same(whole, stage("killed"))
    before = (whole[1] / "model.safetensors").stat().st_mtime_ns
    assert stage("whole")[0] == whole[0], "what is done is not done again"
    assert (whole[1] / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(UserError, match="batch is 5 there and 4 here"):
        stage("whole", {"batch": 4})


@EACH_LOSS
def test_a_step_that_is_not_finite_is_not_taken(stage, monkeypatch):
    """The weights are those of before it, in a checkpoint; the batch is kept; with the cause gone it goes on."""
    whole = stage("whole")
    flag = {"broken": True}
    for cls in (SFTTraining, RewardTraining):
        backward = cls.backward

        def broken(self, batch, backward=backward):
            values = backward(self, batch)
            if self.steps == 6 and flag["broken"]:
                self.optimizer.parameters[0].grad[0] = float("nan")
            return values

        monkeypatch.setattr(cls, "backward", broken)
    with pytest.raises(UserError, match=r"step 7 has loss .* gradient norm nan: its batch is in .*failed_batch\.jsonl"):
        stage("failed")
    folder = whole[1].with_name("failed")
    tensors, state = load_checkpoint(latest_checkpoint(folder / "checkpoints"))
    assert state["progress"]["steps"] == 6
    assert all(bool(torch.isfinite(x).all()) for x in tensors.values() if x.is_floating_point())
    assert (folder / "failed_batch.jsonl").read_text().count("\n") >= 5
    flag["broken"] = False
    same(whole, stage("failed"))


def test_sigterm_stops_a_stage_and_those_after_it(files, tiny_folder, capsys, monkeypatch):
    given = ["--model", tiny_folder, "--data", files / "sft.jsonl", "--run", files / "r", "--quiet", "--batch", "4"]
    iterate = SupervisedTraining.iterate

    def asked(self):
        if self.steps == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return iterate(self)

    with monkeypatch.context() as patch:
        patch.setattr(SupervisedTraining, "iterate", asked)
        code, out, _ = run(capsys, "sft", *given, "--json")
    assert code == 128 + signal.SIGTERM
    assert (json.loads(out)["stopped"], json.loads(out)["steps"]) == ("SIGTERM", 3)
    code, out, _ = run(capsys, "sft", *given, "--stop-at", "4")
    assert (code, "stopped by stop-at" in out) == (0, True)
    code, _, err = run(capsys, "sft", *given, "--seed", "3")
    assert (code, "seed is 0 there and 3 here" in err) == (2, True)
    code, out, _ = run(capsys, "sft", *given, "--json")
    assert (code, json.loads(out)["steps"]) == (0, 6)
    code, _, err = run(capsys, "sft", *given, "--fresh")
    assert (code, "add --yes" in err) == (2, True)
    code, out, _ = run(capsys, "sft", *given, "--fresh", "--yes", "--stop-at", "1", "--json")
    assert (code, json.loads(out)["steps"]) == (0, 1)
    assert not (files / "r" / "sft" / "config.json").exists()


@EACH_LOSS
def test_a_look_at_held_out_rows_is_given_up_for_a_stop_and_taken_later(stage, monkeypatch):
    whole = stage("whole")
    monkeypatch.setattr("proximo.runs.session.signals.StopRequest.__init__.__defaults__", (0.2,))
    asked = []

    def stopped_while_looking(stage, session):
        def slow():
            if stage.training.steps == 5 and not asked:
                asked.append(True)
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(200):
                    time.sleep(0.05)
            return stage.look()

        return run_steps(replace(stage, look=slow), session)

    monkeypatch.setattr("proximo.language.supervised.training.run_steps", stopped_while_looking)
    told, folder = stage("stopped")
    assert told == {"stopped": "SIGTERM", "steps": 5}
    assert metrics(folder)[-1]["step"] == 4, "the row waits for its look"
    same(whole, stage("stopped"))
