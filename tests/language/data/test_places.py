"""Files and folders named from where a command is run: what is stored of them holds from everywhere."""

import json
import shutil
import sys

import pytest
import tiny
from peft import AutoPeftModelForCausalLM
from transformers import LlamaConfig, LlamaForSequenceClassification

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.configured import short_names
from proximo.language.stages import located, resolved
from proximo.runs.storage.metrics import read_metrics


@pytest.fixture
def here(files, tiny_folder, tiny_tokenizer, monkeypatch):
    """A folder to run commands in, with a model, a reward model, a reward function and data."""
    reward = LlamaForSequenceClassification(
        LlamaConfig(**{**tiny.llama(64).config.to_dict(), "num_labels": 1, "pad_token_id": 1})
    )
    reward.save_pretrained(files / "scorer")
    tiny_tokenizer.save_pretrained(files / "scorer")
    (files / "elsewhere").mkdir()
    monkeypatch.chdir(files)
    return files


REWARDS = ("scorer", "1.0", "tiny:per_word", "0.5")
SETTINGS = """
--policy tiny --prompts prompts.jsonl --held-out prompts.jsonl --sharing.mode lora --run r
--responses 16 --batch 8 --response-limit 4 --update.minibatch-size 8 --checkpoint-every 8
--override-preflight --quiet --json
"""


def ppo(*more, rewards=REWARDS):
    return main(["rlhf", "ppo", *SETTINGS.split(), "--rewards", *rewards, *more])


def done(capsys, *more, **rewards):
    code = ppo(*more, **rewards)
    said = capsys.readouterr()
    assert code == 0, said.err
    return json.loads(said.out)


def test_a_run_of_relative_names_is_answered_and_loaded_from_another_folder(here, capsys, monkeypatch):
    done(capsys)
    assert {"reward/scorer", "reward/per_word"} <= set(read_metrics(here / "r" / "ppo" / "metrics.jsonl")[0])
    monkeypatch.chdir(here / "elsewhere")
    code = main(["rlhf", "chat", "../r", "--count", "2", "--json"])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert len(json.loads(said.out)["answers"]) == 2
    AutoPeftModelForCausalLM.from_pretrained(here / "r" / "ppo" / "policy")


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_a_run_that_was_moved_with_what_it_is_made_of_is_answered_there(here, capsys, monkeypatch, mode):
    """Trained on one machine, asked on another: nothing is left where the settings say it was."""
    for part, stage in (("tiny", "sft"), ("scorer", "reward")):
        shutil.copytree(here / part, here / "r" / stage)
    given = SETTINGS.replace("--policy tiny", "").replace("lora", mode).split()
    assert main(["rlhf", "ppo", *given]) == 0
    capsys.readouterr()
    asked = ["--count", "2", "--seed", "5", "--json"]
    assert main(["rlhf", "chat", "r", *asked]) == 0
    answers = capsys.readouterr().out
    shutil.move(here / "r", here / "elsewhere" / "r2")
    shutil.rmtree(here / "tiny")
    monkeypatch.chdir(here / "elsewhere")
    code = main(["rlhf", "chat", "r2", *asked])
    said = capsys.readouterr()
    assert code == 0, said.err
    assert said.out == answers


def test_a_reward_function_is_found_again_from_another_folder_or_asked_for(here, capsys, monkeypatch):
    def asked(folder, run):
        """As a new process asks: it has imported no module of the user's, and looks where it stands."""
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", [place for place in sys.path if not place.startswith(str(here))])
        monkeypatch.delitem(sys.modules, "mine_only", raising=False)
        code = main(["rlhf", "chat", str(run), "--count", "2", "--json"])
        return code, capsys.readouterr()

    code = "def brevity(prompts, responses):\n    return [-len(r) for r in responses]\n"
    (here / "mine_only.py").write_text(code)
    done(capsys, rewards=("mine_only:brevity", "1.0"))
    monkeypatch.chdir(here / "elsewhere")  # the same command goes on, where no such module is
    spelt = {"tiny": "../tiny", "prompts.jsonl": "../prompts.jsonl", "r": "../r"}
    settings = [spelt.get(word, word) for word in SETTINGS.split()]
    assert main(["rlhf", "ppo", *settings, "--rewards", "mine_only:brevity", "1"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    code, said = asked(here / "elsewhere", "../r")
    assert code == 0, said.err
    answers = json.loads(said.out)["answers"]
    assert [a["after_score"] for a in answers] == [-len(a["after"]) for a in answers]
    (here / "new").mkdir()
    shutil.move(here / "mine_only.py", here / "new" / "mine_only.py")
    code, said = asked(here / "elsewhere", "../r")
    missing = f"reward mine_only:brevity: there is no module 'mine_only' in {here}: run from the folder that holds it"
    assert (code, missing in said.err) == (2, True), said.err
    code, said = asked(here / "new", "../r")
    assert code == 0, said.err


def test_a_run_that_stored_relative_names_goes_on_with_the_same_command_and_another_spelling(here, capsys):
    done(capsys, "--stop-at", "8")
    file = here / "r" / "ppo" / "config.toml"
    file.write_text(file.read_text().replace(f"{here}/", ""))
    assert 'policy = "tiny"' in file.read_text()
    (here / "link").symlink_to("tiny")
    assert done(capsys, "--stop-at", "16", "--prompts", "elsewhere/../prompts.jsonl")["responses"] == 16
    shutil.copytree(here / "tiny", here / "copy")
    assert done(capsys, "--policy", "link")["responses"] == 16
    code = ppo("--policy", "copy")
    assert (code, f"holds a run of {here / 'tiny'}, not of {here / 'copy'}" in capsys.readouterr().err) == (2, True)


def test_only_what_is_here_gets_an_absolute_name(here):
    (here / "org").mkdir()
    rewards = {"scorer": 1.0, "org/none": 2.0, "tiny:per_word": 3.0}
    config = PPOConfig(policy="prompts.jsonl", prompts="elsewhere/../prompts.jsonl", rewards=rewards)
    mine = located(config)
    assert mine.policy == "prompts.jsonl"  # a file is no model: it may be a hub name
    assert mine.prompts == str(here / "prompts.jsonl")
    assert mine.held_out == ""
    assert mine.rewards == {str(here / "scorer"): 1.0, "org/none": 2.0, "tiny:per_word": 3.0}
    assert mine.modules == str(here), "a module of this folder, or a package of its name"
    assert located(mine) == mine
    (here / "builtin:smollm2").mkdir()
    assert located(PPOConfig(policy="builtin:smollm2")).policy == "builtin:smollm2"
    # A link's own name may say of what kind its file is; which file it is only counts where two are compared.
    (here / "rows.jsonl").symlink_to("prompts.jsonl")
    assert located(PPOConfig(prompts="rows.jsonl")).prompts == str(here / "rows.jsonl")
    assert resolved(PPOConfig(prompts="rows.jsonl")) == resolved(PPOConfig(prompts="prompts.jsonl"))
    with pytest.raises(UserError, match=r"two of the rewards scorer, \./scorer are the same folder"):
        located(PPOConfig(rewards={"scorer": 1.0, "./scorer": 1.0}))


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["/a/b/reward"], ["reward"]),
        (["/a/x/reward", "/a/y/reward"], ["x/reward", "y/reward"]),
        (["/x/r/reward", "/y/r/reward", "/y/r/other"], ["x/r/reward", "y/r/reward", "other"]),
        (["m:f"], ["f"]),
        (["m:f", "n:f", "n:g"], ["m:f", "n:f", "g"]),
        (["m:f", "/a/f"], ["m:f", "a/f"]),
        (["org/reward", "/a/org/reward"], ["org/reward", "a/org/reward"]),
    ],
)
def test_a_reward_is_called_by_as_little_as_tells_it_from_the_others(names, shown):
    assert list(short_names(names).values()) == shown


def test_functions_of_one_name_are_used_together(here, capsys):
    (here / "other.py").write_text("def per_word(prompts, responses):\n    return [1.0 for _ in responses]\n")
    done(capsys, rewards=("tiny:per_word", "1", "other:per_word", "1"))
    seen = read_metrics(here / "r" / "ppo" / "metrics.jsonl")[0]
    assert seen["reward/other:per_word"] == 1.0
    assert 0 <= seen["reward/tiny:per_word"] < 1.0
