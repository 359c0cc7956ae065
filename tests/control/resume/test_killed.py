"""kill -9 at random moments, writes included: nothing is lost beyond the last checkpoint, no torn file is read."""

import sys

import pytest
import warm
from killing import HELPERS

CODE = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import proximo
from killing import survive

PLAN = {"environments": 4, "rollout_length": 16, "steps": 64 * 120, "checkpoint_every": 64, "keep": 1, "seed": 7}
PLAN |= {"episodes": 1, "episode_limit": 50, "update": {"epochs": 1, "minibatch_size": 32}, "network": {"hidden": [8]}}
PLAN |= {"normalizers": {"observations": True, "rewards": "scale"}, "backend": "gymnasium", "progress": "quiet"}
survive(
    lambda folder: proximo.train("CartPole-v1", run=str(folder), **PLAN),
    Path(sys.argv[1]), kills=int(sys.argv[3]), every=64,
    first=128,  # a rollout that only shows the normalisers what numbers look like, and an iteration
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_leave_the_run_that_was_never_killed(tmp_path, kills):
    command = [sys.executable, "-c", CODE, str(tmp_path), HELPERS, str(kills)]
    process = warm.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith(f"kills {kills} ")
