"""`proximo train --launch ray`: real workers, one of them really killed; where Ray is installed (`proximo[ray]`)."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ranks import on_ranks
from run_ranks import LONG, LONG_OPTIONS

from proximo.cli.main import main
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics


def workers():
    """Processes of Ray Train that train."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


def test_a_killed_worker_is_restarted_and_the_run_comes_to_what_it_would_have(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    on_ranks(2, "run_ranks:whole", tmp_path / "whole", "CartPole-v1", LONG)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "proximo", "train", "CartPole-v1", "--launch", "ray", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--restarts", "2", "--run", "killed", "--quiet", *LONG_OPTIONS],
        cwd=tmp_path,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        limit = time.monotonic() + 150
        while not (folder / "metrics.jsonl").exists() or len(read_metrics(folder / "metrics.jsonl")) < 6:
            assert time.monotonic() < limit, "no iteration was recorded"
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        os.kill(max(workers()), signal.SIGKILL)
        said = process.communicate(timeout=240)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "PlacementGroupCleaner" not in said
    (killed, _), (whole, _) = (load_checkpoint(tmp_path / x / "checkpoints" / "final") for x in ("killed", "whole"))
    learnt = [name for name in whole if name.startswith(("policy/", "optimizer/", "best/"))]
    assert learnt
    assert [name for name in learnt if not killed[name].equal(whole[name])] == []
    assert not list(tmp_path.glob(".*.ray"))


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["train", "CartPole-v1", "--launch", "ray", "--workers", "2", "--run", str(tmp_path / "x")]
    assert main(given) == 2
    assert "pip install 'ray[train]'" in capsys.readouterr().err
