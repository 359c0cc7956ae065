"""kill -9 of PPO on a language model and of its fine-tuning, at random moments."""

import json
import sys

import pytest
import warm
from killing import HELPERS

CODE = """
import os, sys
from dataclasses import replace
from pathlib import Path
os.environ["HF_HUB_OFFLINE"] = "1"
model, data, home, tests = sys.argv[1:]
sys.path.insert(0, tests)
from killing import survive
from proximo.core.settings import UpdateSettings
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.terms import FunctionReward
from proximo.language.ppo.run import run_ppo

config = PPOConfig(
    policy=model, prompts=data, responses=8 * 14, batch=8, response_limit=4, learning_rate=1e-2, checkpoint_every=8,
    update=UpdateSettings(epochs=1, minibatch_size=4),
)
reward = FunctionReward(lambda prompts, responses: [0.1 * len(r) for r in responses], name="length")
survive(
    lambda folder: run_ppo(replace(config, run=str(folder)), mode="quiet", rewards=[reward]),
    Path(home), kills=10, every=8,
)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_ten_kills_leave_the_run_that_was_never_killed(tmp_path, tiny_folder):
    data = tmp_path / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1}"}) + "\n" for i in range(4, 9)))
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-c", CODE, tiny_folder, data, tmp_path / "home", HELPERS]
    process = warm.run([*map(str, command)], language=True, capture_output=True, text=True, timeout=600)
    assert process.returncode == 0, process.stderr
    assert process.stdout.startswith("kills 10 "), process.stdout
