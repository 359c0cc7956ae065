"""Seeds and trials as jobs that somebody else places, here in turn; tests/scale/test_placed.py asks a real cluster."""

import json
import os
import signal

import pytest
from same_runs import same_tensors

import proximo
from proximo.control.many import placed
from proximo.control.tuning import placed as trials
from proximo.control.tuning.trials import train_trial
from proximo.runs.storage.checkpoint import load_checkpoint

SMALL = {
    "steps": 640,
    "environments": 4,
    "rollout_length": 16,
    "episodes": 1,
    "episode_limit": 50,
    "backend": "gymnasium",
}
SMALL |= {"update": {"minibatch_size": 32}, "network": {"hidden": [8]}}


class Said:
    """What a job says to its launcher, who answers at its next word."""

    def __init__(self, name, heard, begun):
        self.name, self.heard, self.begun, self.answer = name, heard, begun, None

    def __call__(self, word):
        said, answer = self.answer, self.heard(self.name, json.loads(json.dumps(word)))
        self.answer = self.answer if answer is None else answer
        return said

    def answered(self):
        return self(None)


def in_turn(begun=1, between=lambda name: None):
    """A launcher that does one job after the other; all that is told goes as JSON."""

    def run_jobs(work, following, heard, ended, around, *, restarts=0, gpus=False):
        with around:
            while (job := following()) is not None:
                name, told = job
                between(name)
                came = work(json.loads(json.dumps(told)), Said(name, heard, begun))
                ended(name, json.loads(json.dumps(came)), "")

    return run_jobs


def trained(folder, seeds=(3, 4), **more):
    asked = {"run": folder, "launch": "ray", "progress": "quiet", **SMALL}
    return proximo.train_seeds("CartPole-v1", seeds=list(seeds), **asked, **more)


def alone(folder, seed):
    return proximo.train("CartPole-v1", run=str(folder), seed=seed, progress="quiet", **SMALL)


def same(a, b):
    same_tensors(*(load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (a, b)))


def test_a_signal_stops_the_job_that_trains_and_those_after_it_and_the_same_call_goes_on(tmp_path, monkeypatch):
    def stop(name):
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(placed, "run_jobs", in_turn(between=stop))
    (stopped,) = trained(tmp_path / "all")
    assert (stopped.config.seed, stopped.stopped) == (3, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.setattr(placed, "run_jobs", in_turn())
    monkeypatch.chdir(tmp_path)
    for run in trained("all"):
        assert run.stopped is None
        assert str(run.path) == run.config.run == f"all/seed-{run.config.seed}"
        same(run, alone(tmp_path / f"{run.config.seed}", run.config.seed))


def test_a_job_that_is_started_again_deletes_nothing_that_was_done(tmp_path, monkeypatch):
    monkeypatch.setattr(placed, "run_jobs", in_turn(begun=2))
    done = alone(tmp_path / "all" / "seed-3", 3)
    (again,) = trained(tmp_path / "all", seeds=[3], fresh=True)
    assert again.finished_before
    assert again.results["seconds"] == done.results["seconds"]


def test_what_is_to_be_mended_in_one_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(placed, "run_jobs", in_turn())
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "seed-3").write_text("no folder")
    with pytest.raises(proximo.UserError, match="seed-3"):
        trained(tmp_path / "all")
    assert not (tmp_path / "all" / "seed-4").exists()


def test_a_trial_whose_worker_was_lost_after_its_end_has_come_to_what_it_came_to(tmp_path):
    config = proximo.Trainer("CartPole-v1", run=tmp_path / "trial", **SMALL).config
    came = train_trial(config, lambda *_: False)
    assert came.how == "complete"
    assert train_trial(config, lambda *_: False, fresh=False) == came


def test_trials_are_reported_pruned_and_told_as_those_that_train_here(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "run_jobs", in_turn())
    monkeypatch.setattr("proximo.control.tuning.trials.Search.hopeless", lambda self, trial, look, value: (
        trial.report(value, look) or trial.number == 1
    ))  # fmt: skip
    found = proximo.tune(
        "CartPole-v1", trials=3, space="credit", run=tmp_path / "search", launch="ray", progress=False, **SMALL
    )
    assert (found.trials, found.pruned) == (3, 1)
    rows = {n: proximo.metrics(tmp_path / "search" / f"trial-{n:04d}") for n in range(3)}
    assert rows[1][-1]["step"] < rows[0][-1]["step"]
    assert found.best_return == max(rows[n][-1]["return"] for n in (0, 2))
