"""All stages from Python, on rows and models in memory: the same as from files, up to the judge's comparison."""

import json
import subprocess
import sys

import pandas
import pytest
import tiny
import torch
import warm
from datasets import Dataset
from transformers import AutoModelForCausalLM, BertModel
from words import WORDS

import proximo
from proximo import language
from proximo.cli.main import main
from proximo.errors import UserError
from proximo.runs import new_process

ROWS = [{"prompt": f"{word} w5", "response": f"w6 {word}"} for word in WORDS[:12]]
PAIRS = [{"prompt": "w5", "chosen": f" {word} w9", "rejected": f" {word}"} for word in WORDS[:12]]
QUICK = {"progress": "quiet", "batch": 4, "threads": 1, "checkpoint_every": 1}


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_rows_and_a_model_in_memory_are_tuned_as_their_files_are(tmp_path, tiny_folder, tiny_model, tiny_tokenizer):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    whole = language.train_sft(tiny_folder, data=file, validation=file, run=tmp_path / "file", **QUICK)
    assert whole.results["steps"] == 3
    assert whole.results["validation_loss"] < whole.results["validation_loss_before"]

    def from_memory(rows=ROWS, model=tiny_model, **more):
        given = {"data": Dataset.from_list(rows), "validation": ROWS, "tokenizer": tiny_tokenizer}
        return language.train_sft(model, **given, run=tmp_path / "memory", **QUICK, **more)

    assert from_memory(stop_at=1).stopped == "stop-at"
    with pytest.raises(proximo.UserError, match=r"a run with other data: .*data-\w+\.jsonl there, and the 11 row"):
        from_memory(ROWS[:-1])
    with pytest.raises(proximo.UserError, match="holds a run with another model"):
        from_memory(model=tiny.llama(64, layers=2, seed=5))
    done = from_memory()
    assert (done.stopped, done.finished_before) == (None, False)
    assert weights(done.folder) == weights(whole.path)
    assert {**done.results, "seconds": 0} == {**whole.results, "seconds": 0}
    assert from_memory().finished_before
    with pytest.raises(proximo.UserError, match="other data"):
        from_memory(ROWS[:-1])
    assert torch.equal(tiny_model.lm_head.weight, AutoModelForCausalLM.from_pretrained(tiny_folder).lm_head.weight)


def test_from_rows_to_the_judges_comparison(tmp_path, tiny_folder, tiny_encoder, tiny_tokenizer):
    def brief(prompts, responses):
        return [-0.1 * len(r.split()) for r in responses]

    prompts = [row["prompt"] for row in ROWS]
    start = language.train_sft(tiny_folder, data=ROWS, run=tmp_path / "sft", **QUICK)
    short = {"response_limit": 4}
    scores = language.train_reward(
        start.path, pairs=PAIRS, validation=PAIRS, standardise_on=prompts, run=tmp_path / "reward", **short, **QUICK
    )
    assert scores.results["pairs"] == len(PAIRS)
    judge = language.train_judge(
        BertModel.from_pretrained(tiny_encoder), tokenizer=tiny_tokenizer, pairs=PAIRS, run=tmp_path / "judge", **QUICK
    )
    settings = {"responses": 16, "batch": 8, "update": {"minibatch_size": 4}, "preflight": "off", **short}
    rewards = {scores: 1.0, brief: 0.5}
    run = language.train(
        start,
        prompts=prompts,
        held_out=prompts[:6],
        rewards=rewards,
        run=tmp_path / "ppo",
        progress="quiet",
        **settings,
    )
    with pytest.raises(proximo.UserError, match="is a function that no module holds: give it as rewards="):
        language.compare(run.path)
    seen = language.compare(run, judge, rewards=rewards)
    assert seen["prompts"] == 6
    for no_judge in ("nope", run):
        with pytest.raises(
            proximo.UserError, match=r"is no judge \(no proximo_judge.json\): make one with .*train_judge"
        ):
            language.compare(run, no_judge, rewards=rewards)
    for few in (-1, 1):
        with pytest.raises(proximo.UserError, match=f"^count = {few} must be a whole number, at least 2: a spread"):
            language.compare(run.path, judge.path, rewards=rewards, count=few)
    table = pandas.DataFrame({"prompt": prompts[:6]})
    assert language.compare(run.path, prompts=table, rewards=rewards)["rise_sd"] == seen["rise_sd"]
    again = language.compare(str(run.path), prompts=prompts[:6], rewards=rewards)
    assert again["rise_sd"] == seen["rise_sd"]
    assert "held-out" not in " ".join(seen["notes"])
    named = language.train(
        start.path,
        prompts=prompts,
        rewards=[tiny.per_word],
        run=tmp_path / "named",
        progress="quiet",
        **settings,
    )
    assert language.compare(named.path, judge.path, count=4)["reward_before"] > 0, "a function of a module is found"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"epoch": 2}, "unknown key 'epoch' in the arguments of proximo.language.train_reward: did you mean 'epochs'"),
        ({"output": "x"}, "output is no setting in .*train_reward: it is run="),
        ({"data": "x"}, "data is no setting in .*train_reward: it is pairs="),
        ({"progress": "silent"}, "^progress = 'silent' must be one of auto, live, plain, quiet$"),
        (
            {"policy": tiny.llama()},
            "^policy = a LlamaForCausalLM in the arguments of proximo.language.train_reward must",
        ),
        ({"pairs": ROWS}, "the list given as pairs, row 1, 2, 3, 4, 5 and 7 more: 12 of 12 rows without a 'chosen'"),
        ({"pairs": Dataset.from_list(PAIRS).train_test_split(2)}, "pairs can not be a DatasetDict: give one of its sp"),
    ],
)
def test_what_can_not_be_used_is_one_sentence(change, sentence, tmp_path, tiny_folder):
    with pytest.raises(proximo.UserError, match=sentence):
        language.train_reward(tiny_folder, **{"pairs": PAIRS, "run": tmp_path / "run", **change})
    assert not (tmp_path / "run").exists()


def test_the_names_are_there_without_torch():
    program = "import sys, proximo; print(proximo.language.__all__, sorted(sys.modules))"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "'proximo.language'" in told
    assert "torch" not in told
    assert "transformers" not in told
    assert all(callable(getattr(language, name)) for name in language.__all__)


SCRIPT = """
from proximo import language

PROMPTS = [{"prompt": f"w{i} w{i + 1}"} for i in range(4, 9)]
SMALL = {"responses": 16, "batch": 8, "response_limit": 4, "threads": 1, "progress": "quiet", "preflight": "off"}


def words(prompts, responses):
    return [0.1 * len(response.split()) for response in responses]


if __name__ == "__main__":
    update = {"epochs": 1, "minibatch_size": 8}
    language.train("tiny", prompts=PROMPTS, rewards=[words], run="runs/s/ppo", update=update, **SMALL)
"""


def test_a_run_of_a_scripts_own_reward_is_verified_and_gone_on_with_by_another_process(
    tmp_path, tiny_folder, monkeypatch
):
    assert tiny_folder == tmp_path / "tiny"
    (tmp_path / "rated.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    warm.instead_of(monkeypatch, new_process, language=True)
    for verified in (False, True):
        told = warm.run([sys.executable, "rated.py"], language=True, capture_output=True, text=True)
        assert told.returncode == 0, told.stderr
        assert verified or main(["verify-resume", "runs/s"]) == 0
    assert "rated:words" in (tmp_path / "runs" / "s" / "ppo" / "config.toml").read_text()


@pytest.mark.parametrize("folder", ["r", "r/ppo"])
def test_a_language_run_asked_for_episodes_names_what_evaluates_it(folder, tmp_path, capsys):
    (tmp_path / "r" / "ppo").mkdir(parents=True)
    (tmp_path / "r" / "ppo" / "config.toml").write_text('kind = "language"\n')
    with pytest.raises(UserError, match=r"`proximo rlhf evaluate` \(from Python: proximo.language.compare\)"):
        proximo.evaluate(tmp_path / folder)
    assert main(["evaluate", str(tmp_path / folder)]) == 2
    assert "proximo rlhf evaluate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: language.train("m", prompts=["a"], rewards=len, kl_coef=0.1), r'here it is kl=\{"coefficient": ...\}'),
        (lambda: language.train("m", prompts=["a"], rewards=len, max_new_tokens=4), "here it is response_limit"),
        (lambda: language.train_sft("m", data=ROWS, num_train_epochs=2), "here it is epochs"),
    ],
)
def test_keywords_of_other_libraries_are_answered_with_ours(call, words):
    with pytest.raises(UserError, match=words):
        call()


def test_a_part_of_a_presets_name_finds_it(capsys):
    assert main(["rlhf", "presets", "chat"]) == 0
    assert "A chat model on human preference pairs" in capsys.readouterr().out
    assert main(["rlhf", "presets", "movie"]) == 0
    said = capsys.readouterr().out
    assert "movie-sentiment-demo" in said
    assert "chat-preferences" not in said


@pytest.mark.parametrize(("train", "data"), [("train_sft", {"data": ROWS}), ("train_reward", {"pairs": PAIRS})])
def test_a_stage_is_refused_where_a_launcher_has_started_it_as_several_ranks(
    train, data, tmp_path, tiny_folder, monkeypatch
):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{train} is for one process, and a launcher has started 4: call it before"):
        getattr(language, train)(tiny_folder, run=tmp_path / "x", **data)
    assert not (tmp_path / "x").exists()
