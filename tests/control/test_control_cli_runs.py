"""The command line on a folder that holds a run: it goes on, stops, changes, starts over; damage is refused."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_lines import HERE, SMALL, refused

from proximo.runs.metrics import read_metrics


def test_a_folder_with_another_run_is_left_alone(prompt, run):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    refused(prompt("train", "Acrobot-v1", "--run", run, *SMALL), "CartPole-v1", "Acrobot-v1", "another")
    refused(prompt("train", "CartPole-v1", "--run", run, *SMALL, "--seed", "9"), "seed", "0", "9")
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_a_run_stops_where_it_is_told_and_goes_on(prompt, run):
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--stop-at", "1e2")
    told = json.loads(out)
    assert (code, told["stopped"]) == (0, "stop-at")
    assert 100 <= told["steps"] <= 128
    assert "stop" not in Path("r/config.toml").read_text()
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--stop-at=100")
    assert json.loads(out)["steps"] == told["steps"], "it has been there"
    refused(prompt("train", "CartPole-v1", "--run", "r", *SMALL, "--stop-at", "soon"), "--stop-at soon must be a whole")
    refused(prompt("train", "CartPole-v1", "--run", "r", *SMALL, "--stop-at"), "--stop-at has no value")
    code, out, _ = prompt("train", "CartPole-v1", "--json", "--run", "r", *SMALL)
    assert code == 0
    mine, whole = json.loads(out), json.loads((run / "results.json").read_text())
    assert mine["final_deterministic"] == whole["final_deterministic"]


def test_starting_over_needs_a_yes(prompt, run, monkeypatch):
    shutil.copytree(run, "r")
    before = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    asked = ["train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--seed", "5", "--fresh"]
    refused(prompt(*asked), "--fresh deletes the run in r", "add --yes")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "no")
    code, _, err = prompt(*asked)
    assert code == 2
    assert "r is left as it is" in err
    assert {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()} == before
    monkeypatch.setattr("builtins.input", lambda: "yes")
    code, _, _ = prompt(*asked)
    assert code == 0
    assert "seed = 5" in Path("r/config.toml").read_text()
    code, _, _ = prompt(*asked[:-3], "--fresh", "--yes")
    assert code == 0
    assert "seed = 0" in Path("r/config.toml").read_text()
    assert [p.name for p in Path().iterdir()] == ["r"]


def test_a_change_that_is_allowed_lengthens_a_finished_run(prompt, run):
    shutil.copytree(run, "r")
    longer = ["train", "CartPole-v1", "--json", "--run", "r", *SMALL, "--steps", "384"]
    refused(prompt(*longer), "steps is 256 there and 384 here", "--allow-change")
    code, out, _ = prompt(*longer, "--allow-change")
    assert code == 0
    assert json.loads(out)["steps"] >= 384
    first = Path("r/config.toml").read_text().splitlines()[0]
    assert first.startswith("# changed at ")
    assert first.endswith(" steps: steps 256 -> 384")
    steps = [row["step"] for row in read_metrics(Path("r/metrics.jsonl"))]
    assert steps == sorted(set(steps))
    before = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    refused(prompt(*longer, "--network.hidden", "9", "--allow-change"), "another policy")
    refused(prompt(*longer, "--environments", "2", "--allow-change"), "does not fit this run")
    after = {p: p.read_bytes() for p in Path("r").rglob("*") if p.is_file()}
    assert {p: x for p, x in after.items() if p.name != "lock"} == {p: x for p, x in before.items() if p.name != "lock"}


def test_verify_resume_says_it_in_text_and_json(prompt, tmp_path):
    assert prompt("train", "CartPole-v1", "--quiet", "--run", "r", *SMALL, "--stop-at", "64")[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1")
    assert code == 0
    assert out.startswith("this run goes on exactly\n  stopped and gone on: equal to the last bit\n")
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1", "--json")
    assert code == 0
    assert json.loads(out)["exact"] is True
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    refused(prompt("verify-resume", "nowhere"), "nowhere holds no run")
    refused(prompt("verify-resume", "r", "--iterations", "0"), "--iterations 0 must be at least 1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("x = 1\n")
    refused(prompt("verify-resume", "other"), "no run of proximo train")


def test_a_run_that_does_not_go_on_exactly_is_told_by_the_exit_code(prompt):
    assert prompt("train", "control_tasks:moody", "--quiet", "--run", "r", *SMALL, "--stop-at", "64")[0] == 0
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1")
    assert code == 1
    assert out.startswith("this run does NOT go on exactly\n  stopped and gone on: NOT equal; iteration ")
    assert "because control_tasks:moody does not follow from its seed and actions" in out


def copied(run, to):
    shutil.copytree(run, to)
    return to / "checkpoints" / "final"


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json"])
@pytest.mark.parametrize("where", [0.2, 0.9])
def test_one_flipped_bit_is_noticed(prompt, run, file, where):
    checkpoint = copied(run, Path("copy").absolute())
    data = bytearray((checkpoint / file).read_bytes())
    data[int(len(data) * where)] ^= 1
    (checkpoint / file).write_bytes(data)
    refused(prompt("evaluate", "copy"), "copy/checkpoints/final")


def test_a_checkpoint_cut_short_is_noticed(prompt, run):
    checkpoint = copied(run, Path("copy").absolute())
    data = (checkpoint / "tensors.safetensors").read_bytes()
    (checkpoint / "tensors.safetensors").write_bytes(data[: len(data) // 2])
    refused(prompt("evaluate", "copy"), "copy/checkpoints/final")


def test_sigterm_saves_and_the_same_command_completes(tmp_path):
    # Far more steps than can be done before the signal, few enough to finish afterwards.
    command = [
        sys.executable,
        "-m",
        "proximo.cli",
        "train",
        "control_tasks:recall",
        "--run",
        "r",
        "--quiet",
        "--json",
        *SMALL,
    ]
    command += ["--steps", "6000"]
    environment = {**os.environ, "PYTHONPATH": HERE}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    metrics = tmp_path / "r" / "metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM == 143
    stopped = json.loads(out)
    assert stopped["stopped"] == "SIGTERM"
    rows = read_metrics(metrics)
    assert stopped["steps"] == rows[-1]["step"] < 6000
    assert (tmp_path / "r" / "checkpoints" / f"step-{stopped['steps']:012d}").is_dir()
    again = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    done = json.loads(again.stdout)
    assert done["stopped"] is None
    assert done["steps"] >= 6000
    steps = [row["step"] for row in read_metrics(metrics)]
    assert steps == sorted(set(steps)), "no step comes twice"
    assert steps[: len(rows)] == [row["step"] for row in rows]
