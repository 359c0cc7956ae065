"""Several seeds in one call: each is the run that it would be alone."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium
import pytest
import warm
from command_lines import SMALL
from same_runs import same_tensors

import proximo
from proximo.cli.main import main
from proximo.control.many import processes
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.folder import RunFolder

FEW = {
    "steps": 64,
    "environments": 2,
    "rollout_length": 16,
    "update": {"minibatch_size": 32},
    "episodes": 1,
    "episode_limit": 50,
}
NAMES = ("last_100_training_return", "final_deterministic", "final_sampled", "best_checkpoint")

PROXIMO = [sys.executable, str(Path(warm.__file__).with_name("launching.py"))]
"""The program, with processes that are started in less time."""


@pytest.fixture
def _warm_side_by_side(monkeypatch):
    warm.instead_of(monkeypatch, processes)


@pytest.mark.usefixtures("_warm_side_by_side")
@pytest.mark.parametrize("parallel", [1, 2])
def test_each_seed_is_the_run_that_it_is_alone(parallel, tmp_path, capsys):
    asked = ["train", "CartPole-v1", *SMALL, "--quiet", "--backend", "gymnasium"]
    many = ["--seeds", "3", "4", "--parallel", str(parallel), "--run", str(tmp_path / "all"), "--json"]
    assert main([*asked, *many]) == 0
    told = json.loads(capsys.readouterr().out)["runs"]
    for seed, row in zip((3, 4), told, strict=True):
        alone = tmp_path / f"alone-{seed}"
        assert main([*asked, "--seed", str(seed), "--run", str(alone), "--json"]) == 0
        results = json.loads(capsys.readouterr().out)
        assert [row[name] for name in NAMES] == [results[name] for name in NAMES]
        same_tensors(*(load_checkpoint(run / "checkpoints" / "final")[0] for run in (alone, Path(row["run"]))))
    assert main([*asked, *many]) == 0  # finished before
    assert [row["final_sampled"] for row in json.loads(capsys.readouterr().out)["runs"]] == [
        row["final_sampled"] for row in told
    ]


def test_an_environment_of_ones_own_is_trained_in_turn_and_not_side_by_side(tmp_path):
    def make():
        return gymnasium.make("CartPole-v1")

    runs = proximo.train_seeds(make, seeds=[5, 6], run=tmp_path / "own", progress="quiet", **FEW)
    assert [(run.path, run.config.seed) for run in runs] == [(tmp_path / "own" / f"seed-{n}", n) for n in (5, 6)]
    with pytest.raises(proximo.UserError, match="parallel needs an environment that other processes can make"):
        proximo.train_seeds(make, seeds=[5, 6], parallel=2, run=tmp_path / "b", progress="quiet", **FEW)
    assert not (tmp_path / "b").exists()


@pytest.mark.usefixtures("_warm_side_by_side")
@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--seeds", "1", "1"], "seeds 1, 1: give different ones"),
        (["--seeds", "0..2", "1"], "seeds 0, 1, 2, 1: give different ones"),
        (["--seeds=7..8,7"], "--seeds"),
        (["--seeds", "1", "2", "--parallel", "0"], "parallel = 0 must be at least 1"),
        (["--seeds"], "--seeds has no value: give one after it"),
        (["--track"], "--track has no value: give one after it"),
        (["--parallel", "2"], "--parallel trains several seeds at once: give --seeds too"),
        (["--seed", "5", "--seeds", "1", "2"], "--seed 5 and --seeds are two ways to say the same"),
        (["--seeds", "1", "2", "--parallel", "2", "--options", "mass=3"], "could not be made with"),
    ],
)
def test_what_can_not_be_is_said_once(more, words, tmp_path, capsys):
    code = main(["train", "CartPole-v1", *SMALL, "--backend", "gymnasium", "--run", str(tmp_path / "all"), *more])
    err = capsys.readouterr().err
    assert code == 2
    assert [words in line for line in err.splitlines() if line.startswith("proximo: ")] == [True]


def test_sigterm_stops_all_and_the_same_command_goes_on(tmp_path):
    command = [*PROXIMO, str(tmp_path), "train", "CartPole-v1", "--steps", "1e9", "--seeds", "0", "1"]
    command += ["--parallel", "2", "--run", str(tmp_path / "all"), "--backend", "gymnasium", "--quiet"]
    process = warm.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ)
    files = [tmp_path / "all" / f"seed-{seed}" / "metrics.jsonl" for seed in (0, 1)]
    while not all(file.exists() and file.stat().st_size for file in files):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in out
    steps = [proximo.metrics(file.parent)[-1]["step"] for file in files]
    assert all(step > 0 for step in steps)
    assert all(any((file.parent / "checkpoints").iterdir()) for file in files)


LOUD = """
import gymnasium

class Loud(gymnasium.Wrapper):
    def reset(self, **options):
        print("x" * 100_000)
        return self.env.reset(**options)

def make():
    print("made")
    return Loud(gymnasium.make("CartPole-v1"))
"""


@pytest.mark.usefixtures("_warm_side_by_side")
def test_what_an_environment_prints_does_not_disturb_the_others(tmp_path, monkeypatch, capsys):
    (tmp_path / "loud.py").write_text(LOUD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    runs = proximo.train_seeds("loud:make", seeds=[0, 1], parallel=2, run="all", progress="quiet", **FEW)
    assert [run.results["steps"] > 0 for run in runs] == [True, True]


@pytest.mark.usefixtures("_warm_side_by_side")
def test_one_that_can_not_be_trained_stops_the_endless_others(tmp_path, capsys):
    small = {**FEW, "backend": "gymnasium"}
    proximo.train("CartPole-v1", run=tmp_path / "all" / "seed-1", seed=7, progress="quiet", **small)
    command = ["train", "CartPole-v1", "--steps", "1e9", "--seeds", "0", "1", "--parallel", "2", "--quiet"]
    assert main([*command, "--run", str(tmp_path / "all"), "--backend", "gymnasium"]) == 2
    assert "seed-1" in capsys.readouterr().err


def test_processes_whose_parent_is_killed_stop_too(tmp_path):
    command = [*PROXIMO, str(tmp_path), "train", "CartPole-v1", "--steps", "1e9", "--seeds", "0", "1"]
    command += ["--parallel", "2", "--run", str(tmp_path / "all"), "--backend", "gymnasium", "--quiet"]
    process = warm.Popen(command, stdout=subprocess.DEVNULL)
    folders = [tmp_path / "all" / f"seed-{seed}" for seed in (0, 1)]
    while not all((folder / "metrics.jsonl").exists() for folder in folders):
        time.sleep(0.05)
        assert process.poll() is None
    process.kill()
    process.wait()
    for folder in folders:
        while True:  # until its lock is free
            try:
                RunFolder(folder).open().close()
                break
            except proximo.UserError:
                time.sleep(0.05)
        assert any((folder / "checkpoints").iterdir())
