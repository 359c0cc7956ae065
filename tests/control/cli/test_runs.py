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
import warm
from command_lines import HERE, SMALL, refused

from proximo.runs import new_process
from proximo.runs.storage.metrics import read_metrics


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
    refused(
        prompt("train", "CartPole-v1", "--run", "r", *SMALL, "--stop-at", "soon"),
        "--stop-at must be none|INT, not soon",
    )
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


def test_verify_resume_says_it_and_leaves_the_run_alone(prompt, tmp_path, monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    assert prompt("train", "CartPole-v1", "--quiet", "--run", "r", *SMALL, "--stop-at", "64")[0] == 0
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1", "--json")
    assert code == 0
    assert json.loads(out)["exact"] is True
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    refused(prompt("verify-resume", "nowhere"), "nowhere holds no run")
    refused(prompt("verify-resume", "r", "--iterations", "0"), "iterations = 0 must be at least 1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.toml").write_text("x = 1\n")
    refused(prompt("verify-resume", "other"), "no run of proximo train")


def test_a_run_that_does_not_go_on_exactly_is_told_by_the_exit_code(prompt, monkeypatch):
    warm.instead_of(monkeypatch, new_process)
    assert prompt("train", "control_tasks:moody", "--quiet", "--run", "r", *SMALL, "--stop-at", "64")[0] == 0
    code, out, _ = prompt("verify-resume", "r", "--iterations", "1")
    assert code == 1
    assert out.startswith("this run does NOT resume exactly\n  stopped and resumed: NOT equal; iteration ")
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
        "proximo.cli.main",
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
    process = warm.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
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
    again = warm.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=True)
    done = json.loads(again.stdout)
    assert done["stopped"] is None
    assert done["steps"] >= 6000
    steps = [row["step"] for row in read_metrics(metrics)]
    assert steps == sorted(set(steps)), "no step comes twice"
    assert steps[: len(rows)] == [row["step"] for row in rows]


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_sigterm_in_the_last_evaluations_is_told_and_the_same_command_evaluates(tmp_path, backend):
    command = [
        sys.executable,
        "-m",
        "proximo.cli.main",
        "train",
        "control_tasks:evaluated",
        "--run",
        "r",
        "--quiet",
        *SMALL,
    ]
    command += ["--backend", backend]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([HERE, os.environ.get("PYTHONPATH", "")])}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = warm.Popen(command, cwd=tmp_path, env=environment, start_new_session=True, **pipes)
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "checkpoints" / "final").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)  # into the evaluation
    os.killpg(process.pid, signal.SIGTERM)  # as schedulers do: the environments' processes too
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    assert out.startswith("stopped by SIGTERM at 256 steps; the same command resumes from r")
    assert not (tmp_path / "r" / "results.json").exists()
    (tmp_path / "fast").touch()
    again = warm.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0
    assert "final deterministic" in again.stdout
    assert "everything is in r (1 MB): checkpoints" in again.stdout
    assert json.loads((tmp_path / "r" / "results.json").read_text())["final_deterministic"] == 7


def test_seconds_are_those_of_all_calls_and_a_finished_run_says_that_it_was_finished_before(prompt):
    asked = ["train", "CartPole-v1", "--run", "r", "--quiet", *SMALL]
    assert prompt(*asked, "--stop-at", "64")[0] == 0
    rows = read_metrics(Path("r/metrics.jsonl"))
    Path("r/metrics.jsonl").write_text("".join(json.dumps(row | {"time": 5000.0 + row["time"]}) + "\n" for row in rows))
    code, out, _ = prompt(*asked)
    assert code == 0
    assert 5000 < json.loads(Path("r/results.json").read_text())["seconds"] < 5500
    assert "finished before" not in out
    code, out, _ = prompt(*asked)
    assert code == 0
    assert out.splitlines()[0].endswith(" s; finished before, nothing was done now")
    assert json.loads(prompt(*asked, "--json")[1])["finished_before"] is True


def test_a_damaged_checkpoint_is_told_without_a_place_in_the_code(prompt):
    for at in ("64", "128"):
        assert prompt("train", "CartPole-v1", "--run", "r", "--quiet", *SMALL, "--stop-at", at)[0] == 0
    newest = sorted(Path("r/checkpoints").glob("step-*"))[-1]
    (newest / "state.json").write_text("{}")
    code, _, err = prompt("evaluate", "r", "--episodes", "1")
    assert code == 0
    assert err.startswith(f"proximo: passing over a broken checkpoint: {newest}/state.json has 2 bytes")
    assert err.count("\n") == 1
    assert "Warning" not in err


def test_a_finished_run_whose_last_policy_is_damaged_is_refused_and_mended_as_told(prompt, run):
    checkpoint = copied(run, Path("r"))
    whole = {p.name: p.read_bytes() for p in checkpoint.iterdir()}
    (checkpoint / "state.json").write_text("{}")
    asked = ["train", "CartPole-v1", "--run", "r", "--quiet", *SMALL]
    refused(prompt(*asked), "the run in r is finished, but r/checkpoints/final/state.json has 2 bytes", "results.json")
    Path("r/results.json").unlink()
    assert prompt(*asked)[0] == 0
    assert (checkpoint / "tensors.safetensors").read_bytes() == whole["tensors.safetensors"]
    assert prompt(*asked)[0] == 0
