"""A terminal that closes, as with an ssh connection that breaks: SIGHUP to what runs in it; its output goes nowhere."""

import contextlib
import json
import os
import signal
import sys
import time

import pytest
import warm

from proximo.runs.storage.checkpoint import latest_checkpoint
from proximo.runs.storage.metrics import read_metrics

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGHUP")

SMALL = ["--environments", "2", "--rollout-length", "64", "--minibatches", "2"]
IN_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
signal.signal(signal.SIGHUP, signal.SIG_IGN if sys.argv[1] == "nohup" else signal.SIG_DFL)  # as the tests may run so
from proximo.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def hung_up(run, how, *options):
    """A training in a terminal of its own, which closes once an iteration is recorded."""
    terminal, its = os.openpty()
    command = [sys.executable, "-c", IN_TERMINAL, how, "train", "CartPole-v1", "--run", str(run), *SMALL, *options]
    process = warm.Popen(command, stdin=its, stdout=its, stderr=its, start_new_session=True)
    os.close(its)
    os.set_blocking(terminal, False)
    limit = time.monotonic() + 600  # what hangs fails; a busy machine does not
    while not any(read_metrics(file) for file in run.rglob("metrics.jsonl")):
        with contextlib.suppress(BlockingIOError):  # or what it shows would fill the terminal
            os.read(terminal, 65536)
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.01)
    os.close(terminal)
    return process


@pytest.mark.parametrize("options", [[], ["--ranks", "2"]], ids=["alone", "ranks"])
def test_a_training_saves_when_its_terminal_closes(tmp_path, options):
    process = hung_up(tmp_path / "run", "plainly", "--steps", "100000000", *options)
    assert process.wait(600) == 128 + signal.SIGHUP
    saved = latest_checkpoint(tmp_path / "run" / "checkpoints")
    assert saved.name.endswith(f"-{read_metrics(tmp_path / 'run' / 'metrics.jsonl')[-1]['step']:012d}")


@pytest.mark.parametrize(
    "options", [["--seeds", "0", "1", "--parallel", "2"], ["--ranks", "2"]], ids=["seeds", "ranks"]
)
def test_under_nohup_it_goes_on_to_its_end(tmp_path, options):
    process = hung_up(tmp_path / "run", "nohup", "--steps", "2048", *options)
    assert process.wait(600) == 0
    ended = [json.loads(file.read_text())["steps"] for file in (tmp_path / "run").rglob("results.json")]
    assert len(ended) == (2 if "--seeds" in options else 1)
    assert min(ended) >= 2048
