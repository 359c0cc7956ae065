"""A stage that was made from a model which was trained anew since is out of date: it is said, and nothing is lost."""

import json

import pytest
from test_language_cli import run

from proximo.language.lineage import weights_id


@pytest.fixture
def made(capsys, preset, tmp_path):
    """All stages of one run."""
    folder = tmp_path / "run"
    code, _, err = run(capsys, "all", "--preset", preset, "--run", folder, "--quiet")
    assert code == 0, err
    return folder


def again(capsys, preset, folder, stage, *more):
    return run(capsys, stage, "--preset", preset, "--run", folder, "--quiet", *more)


def weights(folder):
    return json.loads((folder / "results.json").read_text())["weights"]


def test_later_stages_of_a_model_that_was_trained_anew_are_neither_done_nor_gone_on_with(capsys, preset, made):
    before = weights(made / "sft")
    assert before == weights_id(made / "sft")
    assert again(capsys, preset, made, "all")[0] == 0, "nothing has changed"
    assert again(capsys, preset, made, "sft", "--fresh", "--yes")[0] == 0
    assert weights(made / "sft") == before, "the same settings make the same model"
    assert again(capsys, preset, made, "all")[0] == 0
    preset.write_text(preset.read_text().replace("[sft]", "[sft]\nseed = 5"))
    assert again(capsys, preset, made, "sft", "--fresh", "--yes")[0] == 0
    assert weights(made / "sft") != before
    for stage in ("reward", "judge", "ppo", "all"):
        code, _, err = again(capsys, preset, made, stage)
        stale = made / ("reward" if stage == "all" else stage)
        assert (code, f"{stale} was made from another {made / 'sft'} than there is now" in err) == (2, True), err
    assert (made / "ppo" / "policy").is_dir()
    assert again(capsys, preset, made, "judge", "--allow-change")[0] == 0
    assert again(capsys, preset, made, "judge")[0] == 0, "kept once, it counts as made from this one"
    assert again(capsys, preset, made, "reward", "--fresh", "--yes")[0] == 0
    code, _, err = again(capsys, preset, made, "ppo")
    assert (code, f"another {made / 'sft'} and {made / 'reward'}" in err) == (2, True), err
    assert again(capsys, preset, made, "all", "--fresh", "--yes")[0] == 0
    assert again(capsys, preset, made, "all")[0] == 0
