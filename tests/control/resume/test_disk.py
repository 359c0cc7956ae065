"""A disk that fills, goes read-only or vanishes under a run: one sentence, and the same command goes on later."""

import shutil
import subprocess
import sys
from contextlib import suppress

import pytest
import torch

import proximo
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.runs.storage.metrics import read_metrics

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")

PLAN = {
    "progress": "quiet",
    "backend": "gymnasium",
    "environments": 2,
    "rollout_length": 32,
    "steps": 64 * 12,
    "checkpoint_every": 64 * 2,
    "episodes": 2,
    "episode_limit": 50,
    "update": {"epochs": 1, "minibatch_size": 32},
    "network": {"hidden": [8]},
}


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("may not mount a tmpfs here")
    yield folder
    while not subprocess.run(["umount", "-l", folder], capture_output=True).returncode:
        pass


@pytest.fixture
def in_iteration(monkeypatch):
    """Does something in an iteration; the sixth is between two checkpoints."""
    from proximo.control.training.training import Training

    iterate = Training.iterate

    def arrange(deed, number=6):
        def doing(self):
            if self.progress.iterations == number - 1:
                deed()
            return iterate(self)

        monkeypatch.setattr(Training, "iterate", doing)

    yield arrange
    monkeypatch.setattr(Training, "iterate", iterate)


def fill(folder):
    with open(folder / "filler", "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"x" * 512)


def same_policy(one, other):
    a, b = (load_checkpoint(run.path / "checkpoints" / "final")[0] for run in (one, other))
    assert all(torch.equal(a[name], b[name]) for name in a if name.startswith(("policy", "optimizer")))


def test_a_run_whose_disk_is_full_goes_on_when_there_is_space_again(tmp_path, disk, in_iteration):
    whole = proximo.train("CartPole-v1", run=str(tmp_path / "whole"), **PLAN)
    in_iteration(lambda: fill(disk))
    with pytest.raises(UserError, match=r"No space left on device while writing .*: free space and run"):
        proximo.train("CartPole-v1", run=str(disk / "run"), **PLAN)
    path = latest_checkpoint(disk / "run" / "checkpoints", warn=pytest.fail)
    assert load_checkpoint(path)[1]["progress"]["iterations"] == 4
    (disk / "filler").unlink()
    in_iteration(lambda: None)
    same_policy(whole, proximo.train("CartPole-v1", run=str(disk / "run"), **PLAN))
    steps = [row["step"] for row in read_metrics(disk / "run" / "metrics.jsonl")]
    assert steps == sorted(set(steps))


def test_a_disk_that_is_full_before_the_first_checkpoint_leaves_no_run_and_speaks_of_no_checkpoint(disk, in_iteration):
    in_iteration(lambda: fill(disk), number=1)
    with pytest.raises(UserError, match=r"No space left on device while writing .*run the same command again$"):
        proximo.train("CartPole-v1", run=str(disk / "run"), **PLAN)
    assert [p.name for p in disk.iterdir()] == ["filler"]
    (disk / "filler").unlink()
    in_iteration(lambda: None)
    assert proximo.train("CartPole-v1", run=str(disk / "run"), **PLAN, seed=3).results["steps"] >= PLAN["steps"]


def test_a_read_only_disk_is_named_and_the_run_goes_on_when_it_is_not(tmp_path, disk):
    whole = proximo.train("CartPole-v1", run=str(tmp_path / "whole"), **PLAN)
    proximo.train("CartPole-v1", run=str(disk / "run"), stop_at=128, **PLAN)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for name, call in (("run", {}), ("run", {"fresh": True}), ("other", {})):
        with pytest.raises(UserError, match=r"Read-only file system while .* not read-only"):
            proximo.train("CartPole-v1", run=str(disk / name), **call, **PLAN)
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert [p.name for p in disk.iterdir()] == ["run"]
    same_policy(whole, proximo.train("CartPole-v1", run=str(disk / "run"), **PLAN))


def test_a_run_whose_mount_vanishes_says_so_and_writes_nowhere_else(disk, in_iteration):
    in_iteration(lambda: subprocess.run(["umount", "-l", disk], check=True))
    with pytest.raises(UserError, match=r"No such file or directory while writing checkpoint .*the folder is gone"):
        proximo.train("CartPole-v1", run=str(disk / "run"), **PLAN)
    assert list(disk.iterdir()) == [], "nothing is written under the mount point"


def test_a_run_whose_folder_is_deleted_says_so(tmp_path, in_iteration):
    in_iteration(lambda: shutil.rmtree(tmp_path / "run"))
    with pytest.raises(UserError, match="was deleted while the run writes to it"):
        proximo.train("CartPole-v1", run=str(tmp_path / "run"), **PLAN)
    assert not (tmp_path / "run").exists()


def test_a_second_process_on_a_folder_is_refused_and_the_first_goes_on(tmp_path):
    code = "import sys, time; from proximo.runs.storage.folder import RunFolder\n"
    code += "with RunFolder(sys.argv[1]).open(): print('open', flush=True); time.sleep(60)"
    proximo.train("CartPole-v1", run=str(tmp_path / "run"), stop_at=64, **PLAN)
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "run")], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "open\n"
        before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
        for call in ({}, {"fresh": True}):
            with pytest.raises(UserError, match=f"in use by process {first.pid}: wait for it, stop it, or choose"):
                proximo.train("CartPole-v1", run=str(tmp_path / "run"), **call, **PLAN)
        assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    finally:
        first.kill()
        first.communicate()
