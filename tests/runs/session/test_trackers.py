"""Trackers, each as it works without a network: what they have kept is read back."""

import json
import sqlite3
import struct
import time
from pathlib import Path

import gymnasium
import pytest

import proximo
from proximo.runs.session.trackers import name_of

SMALL = {
    "steps": 96,
    "environments": 2,
    "rollout_length": 16,
    "episodes": 1,
    "episode_limit": 50,
    "update": {"minibatch_size": 32, "epochs": 1},
}


@pytest.fixture(scope="module")
def kept_by_trackio(tmp_path_factory):
    """Its folder, which it reads when it is imported; projects are files in it."""
    folder = tmp_path_factory.mktemp("trackio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_DIR", str(folder))
        yield folder


def make():
    return gymnasium.make("CartPole-v1")


def train(run, *tracker):
    """Three iterations in two calls; the second goes on."""
    asked = {**SMALL, "run": run, "progress": "quiet", "seed": 3}
    proximo.train(make, callbacks=[proximo.Tracker(*tracker)], stop_at=64, **asked)
    following = int(time.time()) + 1
    while (
        time.time() < following
    ):  # wandb's folders are named by the second, and one of the same second is written over
        time.sleep(0.01)
    proximo.train(make, callbacks=[proximo.Tracker(*tracker)], **asked)
    return proximo.metrics(run)


def test_mlflow_has_the_same_numbers_in_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    rows = train(tmp_path / "run", "mlflow")
    import mlflow

    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("proximo").experiment_id])
    seen = [(each.step, each.value) for each in client.get_metric_history(run.info.run_id, "approx_kl")]
    assert seen == [(row["step"], pytest.approx(row["approx_kl"])) for row in rows]
    assert run.data.params["update.minibatch_size"] == "32"
    assert run.info.run_name == "run"
    assert run.info.status == "FINISHED"


def records(data):
    """Of wandb's file: a header, then LevelDB's log format, records in parts within blocks of 32 KiB."""
    assert data.startswith(b":W&B")
    place, whole = 7, b""
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
        length, kind = struct.unpack("<HB", data[place + 4 : place + 7])
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""


def test_wandb_offline_has_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    rows = train(tmp_path / "run", "wandb")
    folders = sorted((tmp_path / "run" / "wandb").glob("offline-run-*"))
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1  # the same run, gone on with
    from wandb.proto import wandb_internal_pb2

    def written(folder):
        """All that a session has told, once its file is whole: wandb's own process may write after the call is over."""
        until = time.monotonic() + 60
        while True:
            found = [
                wandb_internal_pb2.Record.FromString(data)
                for data in records(next(folder.glob("*.wandb")).read_bytes())
            ]
            if any(record.HasField("exit") for record in found) or time.monotonic() > until:
                return found
            time.sleep(0.1)

    seen = {}
    for folder in folders:
        for record in written(folder):
            if record.HasField("history"):
                items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                seen[json.loads(items["_step"])] = json.loads(items["approx_kl"])
    assert seen == {row["step"]: pytest.approx(row["approx_kl"]) for row in rows}


def test_trackio_has_the_same_numbers(tmp_path, kept_by_trackio):
    rows = train(tmp_path / "run", "trackio", "same")
    (file,) = kept_by_trackio.glob("same*.db")
    with sqlite3.connect(file) as database:
        kept = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert len({name for name, _, _ in kept}) == 1
    assert [(step, json.loads(text)["approx_kl"]) for _, step, text in kept] == [
        (row["step"], pytest.approx(row["approx_kl"])) for row in rows
    ]


def test_a_run_that_starts_over_and_one_with_another_tracker_are_runs_of_their_own(
    tmp_path, monkeypatch, kept_by_trackio
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    asked = {**SMALL, "run": tmp_path / "run", "progress": "quiet", "seed": 3}
    for _ in range(2):
        proximo.train(make, callbacks=[proximo.Tracker("trackio", "anew")], stop_at=64, fresh=True, **asked)
    (file,) = kept_by_trackio.glob("anew*.db")
    with sqlite3.connect(file) as database:
        kept = database.execute("select run_name, count(*) from metrics group by run_name").fetchall()
    assert sorted(count for _, count in kept) == [1, 1]
    proximo.train(make, callbacks=[proximo.Tracker("mlflow")], **asked)  # goes on, and mlflow knows no run of trackio


def test_seeds_that_begin_at_once_find_their_place_in_mlflow_made(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    from proximo.control.many import asking

    asking.prepare(["mlflow"])
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert ("proximo",) in database.execute("select name from experiments").fetchall()
    asking.prepare(["mlflow"])  # what is there is left as it is


def test_a_run_is_named_so_that_seeds_and_stages_of_several_are_told_apart():
    names = ["runs/pole/seed-0", "runs/pole/seed--1", "runs/movies/ppo", "runs/cheetah", "runs/seed-of-doubt"]
    assert [name_of(Path(name)) for name in names] == [
        "pole-seed-0",
        "pole-seed--1",
        "movies-ppo",
        "cheetah",
        "seed-of-doubt",
    ]


def test_a_tracker_that_can_not_be_reached_is_told_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://x")
    with pytest.raises(proximo.UserError, match="tracker mlflow can not be used"):
        proximo.train(make, callbacks=[proximo.Tracker("mlflow")], run=tmp_path / "run", progress="quiet", **SMALL)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_tracker_that_is_not_there_is_named(monkeypatch):
    with pytest.raises(proximo.UserError, match="no tracker 'wanb': did you mean wandb"):
        proximo.Tracker("wanb")
    monkeypatch.setattr("proximo.runs.session.trackers.find_spec", lambda name: None)
    with pytest.raises(proximo.UserError, match="tracker mlflow is not installed: `pip install mlflow-skinny`"):
        proximo.Tracker("mlflow")
