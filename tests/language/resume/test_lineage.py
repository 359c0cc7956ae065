"""A stage that was made from a model which was trained anew since is out of date: it is said, and nothing is lost."""

import json
import shutil

import pytest
from rlhf_commands import run
from safetensors.torch import load_file, save_file

from proximo.language.lineage import weights_id


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Holds the folder of each test in turn, so that what was made for the first is at home in all."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def tmp_path(place):
    folder = place / "test"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@pytest.fixture
def made(capsys, preset, place, tmp_path):
    """All stages of one run, trained once."""
    folder, kept = tmp_path / "run", place / "kept"
    if kept.exists():  # with the data and the base models that it was made from
        shutil.rmtree(tmp_path)
        shutil.copytree(kept, tmp_path)
        return folder
    code, _, err = run(capsys, "all", "--preset", preset, "--run", folder, "--quiet")
    assert code == 0, err
    shutil.copytree(tmp_path, kept)
    return folder


def again(capsys, preset, folder, stage, *more):
    return run(capsys, stage, "--preset", preset, "--run", folder, "--quiet", *more)


def stale(capsys, preset, folder, stage, *more):
    """The refusal to go on with a stage, without its folder's name and what to do."""
    code, _, err = again(capsys, preset, folder, stage, *more)
    assert code == 2, err
    return err.partition(" was made from another ")[2]


def scale(file, factor):
    save_file({name: factor * x for name, x in load_file(file).items()}, file, metadata={"format": "pt"})


def trained_anew(capsys, preset, folder):
    preset.write_text(preset.read_text().replace("[sft]\n", "[sft]\nseed = 5\n"))
    assert again(capsys, preset, folder, "sft", "--fresh", "--yes")[0] == 0


def test_later_stages_of_a_model_that_was_trained_anew_are_neither_done_nor_gone_on_with(capsys, preset, made):
    before = weights_id(made / "sft")
    assert again(capsys, preset, made, "all")[0] == 0, "nothing has changed"
    assert again(capsys, preset, made, "sft", "--fresh", "--yes")[0] == 0
    assert weights_id(made / "sft") == before, "the same settings make the same model"
    assert again(capsys, preset, made, "reward")[0] == 0
    trained_anew(capsys, preset, made)
    for stage in ("reward", "judge", "ppo"):
        told = stale(capsys, preset, made, stage)
        assert told.startswith(f"{made / 'sft'} than there is now, which was retrained")
        assert "with --fresh (fresh=True), or keep it with --allow-change" in told
    assert (made / "ppo" / "policy").is_dir()
    assert again(capsys, preset, made, "judge", "--allow-change")[0] == 0
    assert again(capsys, preset, made, "judge")[0] == 0, "kept once, it counts as made from this one"
    assert again(capsys, preset, made, "reward", "--fresh", "--yes")[0] == 0
    assert stale(capsys, preset, made, "ppo").startswith(f"{made / 'sft'} and {made / 'reward'} than there is now")


def test_all_starts_over_or_keeps_what_is_there(capsys, preset, made):
    trained_anew(capsys, preset, made)
    models = [made / part / "model.safetensors" for part in ("reward", "ppo/policy")]
    before = [file.stat().st_mtime_ns for file in models]
    code, _, err = again(capsys, preset, made, "all", "--allow-change")
    assert code == 0, err
    assert [file.stat().st_mtime_ns for file in models] == before, "kept"
    assert again(capsys, preset, made, "all", "--fresh", "--yes")[0] == 0
    assert all(file.stat().st_mtime_ns > time for file, time in zip(models, before, strict=True)), "made anew"
    assert again(capsys, preset, made, "all")[0] == 0


def test_a_stage_that_is_kept_is_still_of_the_models_that_it_was_made_from(capsys, preset, made):
    """Else `evaluate` would measure a rise from a model that PPO did not start from, and PPO go on from it."""
    trained_anew(capsys, preset, made)
    assert again(capsys, preset, made, "all", "--allow-change")[0] == 0
    assert again(capsys, preset, made, "all")[0] == 0, "kept once is kept"
    for asked in ("evaluate", "chat"):
        code, _, err = run(capsys, asked, made)
        assert (code, "so there is no before to compare with" in err) == (2, True), err
    assert "too with --fresh" in stale(capsys, preset, made, "ppo", "--responses", "40", "--allow-change")


def test_rewards_may_be_named_in_any_order(capsys, preset, made, tmp_path):
    rewards = [[made / "reward", "1", tmp_path / "other", "1"], [tmp_path / "other", "1", made / "reward", "1"]]
    shutil.copytree(made / "reward", tmp_path / "other")
    scale(tmp_path / "other" / "model.safetensors", 2)
    for given in rewards:
        assert again(capsys, preset, tmp_path / "second", "ppo", "--policy", made / "sft", "--rewards", *given)[0] == 0


def test_the_base_of_an_adapter_counts(capsys, preset, made, tmp_path):
    preset.write_text(preset.read_text() + '[ppo.sharing]\nmode = "lora"\n')
    assert again(capsys, preset, made, "ppo", "--fresh", "--yes")[0] == 0
    more = "--policy", made / "ppo" / "policy", "--rewards", made / "reward", "1"
    assert again(capsys, preset, tmp_path / "second", "ppo", *more, "--stop-at", "8")[0] == 0
    scale(made / "sft" / "model.safetensors", 1.5)
    told = stale(capsys, preset, tmp_path / "second", "ppo", *more)
    assert told.startswith(f"{made / 'ppo' / 'policy'} than there is now")


def test_a_copy_is_compared_with_what_was_copied_beside_it(capsys, preset, made, tmp_path):
    shutil.copytree(made, tmp_path / "copy")
    before = run(capsys, "chat", made, "--count", "2", "--json")[1]
    trained_anew(capsys, preset, made)
    code, out, err = run(capsys, "chat", tmp_path / "copy", "--count", "2", "--json")
    assert (code, out) == (0, before), err


def test_a_model_that_can_not_be_read_is_one_sentence(capsys, preset, made):
    (made / "sft" / "lost.safetensors").symlink_to(made / "nowhere")
    code, _, err = run(capsys, "chat", made)
    assert (code, "lost.safetensors" in err) == (2, True), err
    (made / "ppo" / "made_from.json").write_text("[]")
    code, _, err = run(capsys, "chat", made)
    assert (code, "made_from.json can not be read" in err, err.strip().endswith("delete it")) == (2, True, True), err


def test_a_stage_that_is_finished_is_not_trained_over(capsys, preset, made):
    """It keeps no checkpoint: to go on with other settings would be to start over, and to lose it."""
    before = weights_id(made / "sft")
    preset.write_text(preset.read_text().replace("[sft]\n", "[sft]\nepochs = 2.0\n"))
    for more in ([], ["--allow-change"]):
        code, _, err = again(capsys, preset, made, "sft", *more)
        assert code == 2
        assert "holds another run, which is finished: epochs is 1.0 there and 2.0 here" in err
        assert err.strip().endswith(
            "another folder with --run (run=...), give the same settings, or start over with --fresh (fresh=True)"
        )
    assert weights_id(made / "sft") == before


def test_what_ppo_started_from_can_not_be_exchanged_under_it(capsys, preset, made):
    assert again(capsys, preset, made, "ppo", "--fresh", "--yes", "--stop-at", "8")[0] == 0
    trained_anew(capsys, preset, made)
    told = stale(capsys, preset, made, "ppo", "--allow-change")
    assert "too with --fresh" in told
    assert "--allow-change" not in told


def test_a_model_that_is_no_longer_what_ppo_started_from_is_no_before(capsys, preset, made):
    assert run(capsys, "evaluate", made, "--count", "4")[0] == 0
    scale(made / "reward" / "model.safetensors", 1.01)
    code, out, err = run(capsys, "chat", made, "--count", "2", "--json")
    assert code == 0, err
    assert f"{made / 'reward'} was trained anew since: it is not the reward of this run" in json.loads(out)["notes"]
    trained_anew(capsys, preset, made)
    for asked in ("evaluate", "chat"):
        code, _, err = run(capsys, asked, made)
        assert (code, "so there is no before to compare with" in err) == (2, True), err


def test_ppo_on_what_ppo_made_knows_it_too(capsys, preset, made, tmp_path):
    """A policy folder lies within its run; the base model's own results.json is none of ours."""
    (made / "ppo" / "policy" / "results.json").write_text('[{"task": "arc"}]')
    more = "--policy", made / "ppo" / "policy", "--rewards", made / "reward", "1"
    assert again(capsys, preset, tmp_path / "second", "ppo", *more)[0] == 0
    assert again(capsys, preset, tmp_path / "second", "ppo", *more)[0] == 0
    scale(made / "ppo" / "policy" / "model.safetensors", 1.5)
    told = stale(capsys, preset, tmp_path / "second", "ppo", *more)
    assert told.startswith(f"{made / 'ppo' / 'policy'} than there is now")
