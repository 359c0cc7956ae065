"""`proximo train --seeds ... --launch ray`: real workers, one of them really killed; where Ray is installed."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace

import optuna
import pytest
from ray_clusters import cluster, workers
from run_ranks import LONG, LONG_OPTIONS
from same_runs import same_tensors

import proximo
from proximo.control.config import TrainConfig
from proximo.control.run import run_training
from proximo.runs.config.toml import from_mapping
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics

pytest.importorskip("ray", reason="Ray is not installed")


@pytest.fixture(scope="module")
def variables():
    with cluster() as found:
        yield found


def started(where, variables, *more):
    command = [sys.executable, "-m", "proximo", *more]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=where, env=variables, **pipes)


def until(process, true):
    limit = time.monotonic() + 240
    while not true():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < limit
        time.sleep(0.02)


def rows(run):
    return len(read_metrics(run / "metrics.jsonl")) if (run / "metrics.jsonl").exists() else 0


def test_seeds_on_a_cluster_are_the_runs_that_they_are_alone_also_where_one_is_killed_and_all_are_stopped(
    variables, tmp_path
):
    asked = ["train", "CartPole-v1", "--seeds", "3..5", "--run", "all", "--json", "--quiet", *LONG_OPTIONS]
    asked += ["--launch", "ray", "--restarts", "1"]
    process = started(tmp_path, variables, *asked)
    until(process, lambda: rows(tmp_path / "all" / "seed-4") > 5)
    (victim,) = workers("seed-4")
    os.kill(victim, signal.SIGKILL)
    until(process, lambda: any(pid != victim for pid in workers("seed-4")))
    process.send_signal(signal.SIGTERM)
    said, noise = process.communicate(timeout=240)
    assert process.returncode == 128 + signal.SIGTERM, noise
    assert {row["stopped"] for row in json.loads(said)["runs"]} <= {"SIGTERM", None}
    process = started(tmp_path, variables, *asked)
    said, noise = process.communicate(timeout=240)
    assert process.returncode == 0, noise
    for seed, told in zip((3, 4, 5), json.loads(said)["runs"], strict=True):
        alone = proximo.train("CartPole-v1", run=str(tmp_path / f"{seed}"), seed=seed, progress="quiet", **LONG)
        final = [load_checkpoint(path / "checkpoints" / "final")[0] for path in (alone.path, tmp_path / told["run"])]
        assert told["run"] == f"all/seed-{seed}"
        assert told["final_sampled"] == alone.results["final_sampled"]
        same_tensors(*final)


def test_what_is_to_be_mended_in_one_is_said_once(variables, tmp_path):
    asked = ["train", "CartPole-v1", "--seeds", "0..2", "--launch", "ray", "--run", "all", "--options", "mass=3"]
    process = started(tmp_path, variables, *asked, *LONG_OPTIONS)
    noise = process.communicate(timeout=240)[1]
    assert process.returncode == 2
    assert noise.count("has no option 'mass'") == noise.count("proximo:") == 1


def test_trials_on_a_cluster_are_those_of_a_search_here_and_a_killed_one_goes_on(variables, tmp_path):
    asked = [
        "tune",
        "CartPole-v1",
        "--space",
        "credit",
        "--trials",
        "4",
        "--steps",
        "8192",
        "--run",
        "search",
        "--json",
    ]
    process = started(tmp_path, variables, *asked, "--launch", "ray", "--restarts", "1")
    until(process, lambda: rows(tmp_path / "search" / "trial-0001") > 2)
    victims = list(workers("trial-0001"))
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    said, noise = process.communicate(timeout=300)
    assert process.returncode == 0, noise
    assert json.loads(said)["trials"] == 4
    assert len(victims) == 1
    study = optuna.load_study(study_name="proximo", storage=f"sqlite:///{tmp_path / 'search' / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    for trial in study.trials:
        run = tmp_path / "search" / f"trial-{trial.number:04d}"
        assert proximo.metrics(run)[-1]["return"] == pytest.approx(trial.value)
        assert proximo.metrics(run)[-1]["step"] >= 8192
    (trial,) = (trial for trial in study.trials if trial.number == 1)
    settings = tomllib.loads((tmp_path / "search" / "trial-0001" / "config.toml").read_text())
    config = from_mapping(TrainConfig, settings, where="config.toml")
    alone = run_training(replace(config, run=str(tmp_path / "alone")), mode="quiet")
    assert proximo.metrics(alone.path)[-1]["return"] == pytest.approx(trial.value)
