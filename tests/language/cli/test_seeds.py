"""A seed that torch's generators have no room for is refused before anything is read."""

import pytest

from proximo.cli.main import main

STAGES = {
    "sft": ["--model", "m", "--data", "d"],
    "reward": ["--model", "m", "--data", "d"],
    "judge": [],
    "ppo": ["--policy", "p", "--prompts", "d"],
}


@pytest.mark.parametrize("seed", [10**20, 2**40, -(10**20)])
@pytest.mark.parametrize("stage", [*STAGES, "chat", "evaluate"])
def test_a_seed_without_room_is_refused(stage, seed, tmp_path, capsys):
    place = [str(tmp_path / "r")] if stage not in STAGES else ["--run", str(tmp_path / "r"), *STAGES[stage]]
    assert main(["rlhf", stage, *place, "--seed", str(seed)]) == 2
    assert f"seed = {seed} must be between -2^40 and 2^40" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
