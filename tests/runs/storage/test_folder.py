import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from proximo.errors import UserError
from proximo.runs.storage.code_version import describe_code
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.lock import Lock


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def test_create_makes_a_whole_run_and_open_continues_it(tmp_path: Path):
    with RunFolder(tmp_path / "runs" / "one").create("steps = 1\n") as run:
        assert run.exists
        assert run.config.read_text() == "steps = 1\n"
        assert run.checkpoints.is_dir()
        version = (run.code / "version.txt").read_text()
        assert "proximo " in version
        assert "torch " in version
    with RunFolder(run.path).open():
        pass
    with pytest.raises(UserError, match="already holds a run"):
        RunFolder(run.path).create("")
    with RunFolder(run.path).open():  # the refused creation left neither damage nor a lock
        assert run.config.read_text() == "steps = 1\n"


def test_a_folder_with_other_things_is_left_as_it_was(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(UserError, match=r"not empty \(it holds thesis\.txt\)"):
        RunFolder(tmp_path).create("")
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="holds no run"):
        RunFolder(tmp_path).open()


def test_what_a_killed_creation_left_is_started_anew(tmp_path: Path):
    run = RunFolder(tmp_path / "one").create("")
    run.close()
    run.config.unlink()
    (run.path / ".config.toml.1.tmp").write_text("half")
    with RunFolder(run.path).create("steps = 2\n"):
        assert run.exists


def test_a_failed_creation_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for error, expected in ((KeyboardInterrupt(), KeyboardInterrupt), (OSError(28, "No space left"), UserError)):

        def fail(error: BaseException = error) -> dict[str, bytes]:
            raise error

        monkeypatch.setattr("proximo.runs.storage.folder.describe_code", fail)
        with pytest.raises(expected):
            RunFolder(tmp_path / "a" / "b" / "c").create("")
        assert list(tmp_path.iterdir()) == []


def test_a_folder_cannot_be_made_below_a_file(tmp_path: Path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="a file stands where a folder should be"):
        RunFolder(tmp_path / "file" / "run").create("")
    with pytest.raises(UserError, match="file"):
        RunFolder(tmp_path / "file").create("")
    assert (tmp_path / "file").read_text() == "x"


def test_the_second_process_is_refused_and_told_who_the_first_is(tmp_path: Path):
    with RunFolder(tmp_path / "one").create("") as run:
        code = """
import sys; from proximo.runs.storage.folder import RunFolder; from proximo.errors import UserError
try: RunFolder(sys.argv[1]).open()
except UserError as error: print(error)
"""
        answer, _ = python(code, run.path).communicate()
        assert f"{run.path} is in use by process {os.getpid()}: wait for it" in answer
        with pytest.raises(UserError, match="this very process"):
            RunFolder(run.path).open()
    assert python(code, run.path).communicate()[0] == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only a fork shares the lock")
def test_a_killed_process_gives_the_lock_up_though_its_forked_worker_lives(tmp_path: Path):
    code = """
import os, sys, time; from pathlib import Path; from proximo.runs.storage.lock import Lock
lock = Lock(Path(sys.argv[1]))
worker = os.fork()
if worker == 0: print(os.getpid(), flush=True); time.sleep(60); os._exit(0)  # once it runs, and not before
time.sleep(60)
"""
    first = python(code, tmp_path / "lock")
    worker = int(first.stdout.readline())
    try:
        with pytest.raises(UserError, match=f"in use by process {first.pid}"):
            Lock(tmp_path / "lock")
        first.kill()
        first.wait()
        Lock(tmp_path / "lock").release()
    finally:
        os.kill(worker, signal.SIGKILL)
        first.communicate()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only a fork shares the lock")
def test_a_forked_worker_that_ends_does_not_take_the_lock_with_it(tmp_path: Path):
    with Lock(tmp_path / "lock"):
        worker = multiprocessing.get_context("fork").Process(target=int)
        worker.start()
        worker.join()
        with pytest.raises(UserError):
            Lock(tmp_path / "lock")


def test_an_atomic_write_replaces_all_or_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    write_atomically(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("proximo.runs.storage.files.os.replace", fail)
        with pytest.raises(UserError, match=r"Input/output error while writing .*a\.txt"):
            write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]
    with pytest.raises(UserError, match="the folder is gone"):
        write_atomically(tmp_path / "absent" / "a.txt", b"")


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_the_commit_and_the_uncommitted_diff_are_kept(tmp_path: Path):
    file = tmp_path / "code.py"
    file.write_text("x = 1\n")
    git(tmp_path, "init")
    assert b"no commit recorded" in describe_code(tmp_path)["version.txt"]
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    clean = describe_code(tmp_path)
    assert b"git commit " in clean["version.txt"]
    assert b"uncommitted changes: none" in clean["version.txt"]
    assert "uncommitted.diff" not in clean
    file.write_text("x = 2\n" * 100_000)
    assert b"+x = 2" in describe_code(tmp_path)["uncommitted.diff"]
    cut = describe_code(tmp_path, limit=1000)
    assert len(cut["uncommitted.diff"]) == 1000
    assert b"the first 1,000 bytes" in cut["version.txt"]


def test_no_repository_and_no_git_are_said_and_fail_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert b"not a git repository" in describe_code(tmp_path)["version.txt"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert b"git cannot be started" in describe_code(tmp_path)["version.txt"]


KEPT = {
    "a checkpoint": lambda run: (run.checkpoints / "step-1").mkdir(),
    "an update": lambda run: (run.replay / "failed").mkdir(parents=True),
    "a metric": lambda run: run.metrics.write_text("{}"),
    "results": lambda run: run.results.write_text("{}"),
    "a file of others": lambda run: (run.path / "notes.txt").write_text("mine"),
}


def fail(run, error, before):
    """A new run that does something and then fails."""
    with suppress(type(error)), run.create("steps = 1\n"):
        before(run)
        raise error


@pytest.mark.parametrize("kept", [None, *KEPT])
@pytest.mark.parametrize("existed", [False, True])
def test_a_new_run_that_fails_with_nothing_worth_keeping_leaves_nothing(
    tmp_path: Path, kept: str | None, existed: bool
):
    run = RunFolder(tmp_path / "runs" / "one")
    if existed:
        run.path.mkdir(parents=True)
    fail(run, UserError("broken"), lambda run: (run.metrics.touch(), KEPT.get(kept, bool)(run)))
    if kept:
        assert run.exists
        with run.open():
            pass
    else:
        assert list(tmp_path.rglob("*")) == ([run.path.parent, run.path] if existed else [])
        with RunFolder(run.path).create("steps = 2\n"):
            pass


def test_a_run_of_an_earlier_call_and_what_lay_there_before_are_never_removed(tmp_path: Path):
    run = RunFolder(tmp_path / "one")
    run.code.mkdir(parents=True)  # what a kill left of a creation
    (run.code / "version.txt").write_text("old")
    with pytest.raises(UserError, match="broken"), run.create("steps = 1\n"):
        raise UserError("broken")
    assert [item.name for item in run.path.iterdir()] == ["code"]
    with RunFolder(run.path).create("steps = 1\n"):
        pass
    with pytest.raises(UserError, match="broken"), RunFolder(run.path).open():
        raise UserError("broken")
    assert RunFolder(run.path).exists


@pytest.mark.parametrize("saved", [False, True])
def test_ctrl_c_speaks_of_a_checkpoint_where_there_is_one(tmp_path: Path, saved: bool):
    run = RunFolder(tmp_path / "one")
    ctrl_c = KeyboardInterrupt()
    fail(run, ctrl_c, KEPT["a checkpoint"] if saved else bool)
    said = getattr(ctrl_c, "__notes__", [])
    assert said == (["the last checkpoint is whole, and the same command resumes from it"] if saved else [])
    assert run.exists is saved


def test_a_name_that_is_too_long_is_said_to_be(tmp_path):
    with pytest.raises(UserError, match=r"File name too long while looking for .*: choose a shorter name"):
        _ = RunFolder(tmp_path / ("a" * 300)).exists
