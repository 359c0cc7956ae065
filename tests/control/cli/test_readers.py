"""Commands whose reader stops reading, as `head` and a pager that is left do, or whose output can not be written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import warm

from proximo.cli.main import VERBS

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise")
HERE = str(Path(__file__).parents[2] / "helpers" / "control")
PROXIMO = [sys.executable, "-m", "proximo"]
SMALL = ["--steps", "256", "--environments", "2", "--rollout-length", "32", "--minibatches", "2"]


def unread():
    """An end of a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def ended(command, **streams):
    """The exit code of a real interpreter, its shutdown included, and what it said on standard error."""
    done = subprocess.run(command, check=False, timeout=600, **{"stderr": subprocess.PIPE, **streams})
    return done.returncode, (done.stderr or b"").decode()


@pytest.mark.parametrize("asked", ["--help", "--version", "watch --help", "presets --json", "rlhf"])
def test_a_reader_that_has_seen_enough_ends_a_command_that_prints_without_a_word(asked):
    assert ended([*PROXIMO, *asked.split()], stdout=unread()) == (141, "")


def test_the_help_of_every_verb_ends_without_a_word_too():
    code = """
import contextlib, io, os, sys
from proximo.cli.main import VERBS, main
codes = set()
for verb in VERBS:
    reader, writer = os.pipe()
    os.close(reader)
    sys.stdout = os.fdopen(writer, "w")
    codes.add(main([verb, "--help"]))
sys.stdout = sys.__stdout__
print(codes)
"""
    done = warm.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert VERBS
    assert (done.stdout, done.stderr) == ("{141}\n", "")


def test_a_sentence_that_nobody_reads_leaves_the_exit_code_as_it_is():
    assert ended([*PROXIMO, "nonsense"], stderr=unread())[0] == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_results_that_can_not_be_written_are_told_in_one_sentence():
    with open("/dev/full", "w") as full:
        code, said = ended([*PROXIMO, "presets"], stdout=full)
    assert code == 2
    assert said == "proximo: standard output can not be written: No space left on device; mend that first\n"


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_a_training_goes_on_to_its_end_when_its_console_closes(tmp_path, backend):
    command = [*PROXIMO, "train", "control_tasks:talkative", "--run", "r", "--backend", backend, *SMALL]
    environment = {**os.environ, "PYTHONPATH": HERE}
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = warm.Popen(command, cwd=tmp_path, env=environment, **pipe)
    assert process.stdout.readline()
    process.stdout.close()  # as `head -1` does; the environment prints in every step, and so does the run
    assert process.wait(600) == 0
    assert json.loads((tmp_path / "r" / "results.json").read_text())["steps"] == 256
    assert (tmp_path / "r" / "checkpoints" / "final").is_dir()


def test_a_training_from_python_outlives_what_it_says_too(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {HERE!r})
import proximo, control_tasks
def make(): return control_tasks.Talkative(quiet=True, closes=False)
if __name__ == "__main__":
    proximo.train(make, steps=256, environments=2, rollout_length=32, minibatches=2, run="r")
"""
    assert ended([sys.executable, "-c", code], cwd=tmp_path, stderr=unread())[0] == 0
    assert (tmp_path / "r" / "results.json").exists()


def test_no_file_takes_the_number_of_a_stream_that_was_closed():
    code = """
import sys
import proximo.cli.main as cli
def opened(given):  # in the place of a verb: the exit code says whether its file is one above the streams
    with open(sys.executable, "rb") as file:
        return file.fileno() > 2
cli._run = opened
sys.exit(cli.main([]))
"""
    closed = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
    assert ended(closed)[0] == 1
