"""People's own files, reward functions and reward models: common shapes are read, and what is wrong is named."""

import asyncio
import collections.abc
import contextlib
import csv
import gzip
import json
import pathlib
import re
import shutil
from dataclasses import replace

import datasets
import numpy as np
import pandas
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from tiny import byte_tokenizer, llama, per_word
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaForCausalLM,
)

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.data.dataset import load_examples, load_pairs, load_prompts
from proximo.language.data.rows import read_rows
from proximo.language.given.files import Given, as_rows
from proximo.language.models.loading import load_causal_model, load_tokenizer
from proximo.language.ppo.run import run_ppo
from proximo.language.rewards.calls import scores_of
from proximo.language.rewards.judge import whole_text
from proximo.language.rewards.loading import load_reward_term
from proximo.language.rewards.terms import FunctionReward, combine
from proximo.language.sampling.texts import Texts
from proximo.language.stages import is_function, located
from proximo.language.supervised.reward import train_reward
from proximo.runs.session.opening import Call
from proximo.runs.storage.folder import RunFolder

ROWS = [{"prompt": "w4", "response": "w5"}, {"prompt": "w6", "response": "w7 w8"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


def u(text):
    return {"role": "user", "content": text}


def a(text):
    return {"role": "assistant", "content": text}


# ---- files


@pytest.mark.parametrize("name", ["a.json", "wrapped.json", "a.jsonl.gz", "a.json.gz", "a.csv", "a.csv.gz", "A.JSONL"])
def test_one_set_of_rows_reads_alike_from_every_kind_of_file(tmp_path, name):
    text = {".json": json.dumps(ROWS, indent=1), ".jsonl": LINES}.get("." + name.lower().split(".")[1], "")
    if name.startswith("wrapped"):
        text = json.dumps({"version": 1, "data": ROWS})
    if ".csv" in name:
        text = "prompt,response\r\nw4,w5\r\nw6,w7 w8\r\n"
    content = b"\xef\xbb\xbf" + text.encode()  # as Windows' editors begin a file
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert read_rows(tmp_path / name).values == ROWS
    assert read_rows(tmp_path / name, 1).values == ROWS[:1]


def test_a_csv_field_may_hold_lines_and_commas(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([["prompt", "response"], ["w4,\n w5", 'w6 "w7"']])
    assert read_rows(tmp_path / "a.csv").values == [{"prompt": "w4,\n w5", "response": 'w6 "w7"'}]


@pytest.mark.parametrize("below", ["", "data"])
def test_shards_of_parquet_are_one_set_of_rows(tmp_path, below):
    folder = tmp_path / "set" / below
    folder.mkdir(parents=True)
    for i, row in enumerate(ROWS):
        datasets.Dataset.from_list([row]).to_parquet(folder / f"train-0000{i}-of-00002.parquet")
    assert read_rows(tmp_path / "set").values == ROWS
    datasets.Dataset.from_list(ROWS).to_parquet(folder / "test-00000-of-00001.parquet")
    with pytest.raises(UserError, match=r"holds several splits \(test, train\)"):
        read_rows(tmp_path / "set")


def shard(path, rows):
    """A file of rows, of the kind that its name says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list(rows).to_parquet(path)
    elif ".csv" in path.name:
        path.write_text("prompt,response\n" + "".join(f"{row['prompt']},{row['response']}\n" for row in rows))
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(lines.encode()))
    else:
        path.write_text(json.dumps(rows) if path.suffix == ".json" else lines)


@pytest.mark.parametrize("below", ["", "data", "train"])
@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "ndjson", "json", "csv", "parquet"])
def test_files_of_one_kind_in_a_folder_are_one_set_of_rows(tmp_path, kind, below):
    for i, row in enumerate(ROWS):
        shard(tmp_path / "set" / below / f"part{i}.{kind}", [row])
    (tmp_path / "set" / "README.md").write_text("about it")
    (tmp_path / "set" / ".cache").mkdir()
    shard(tmp_path / "set" / ".cache" / "old.json", ROWS)
    assert read_rows(tmp_path / "set").values == ROWS
    assert read_rows(tmp_path / "set", 1).values == ROWS[:1]


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["train.jsonl", "test.jsonl"], r"holds several splits \(test, train\)"),
        (["train.parquet", "validation.parquet"], r"holds several splits \(train, validation\)"),
        (["train_1.csv", "held_out.csv"], r"holds several splits \(held_out, train_1\)"),
        (["a.jsonl", "a.csv"], r"holds files of several kinds \(\.csv, \.jsonl\)"),
        (["train/a.jsonl", "test/a.jsonl"], r"holds several folders of rows \(test, train\): give one of them"),
        (["config.json", "tokenizer.json"], r"is the folder of a model, and holds no rows: give a \.jsonl"),
        (["notes.md"], r"holds no file of rows .*, and is no folder saved by datasets"),
    ],
)
def test_a_folder_of_several_sets_is_not_read_as_one(tmp_path, names, said):
    for name in names:
        shard(tmp_path / "set" / name, ROWS)
    with pytest.raises(UserError, match=said):
        read_rows(tmp_path / "set")


def test_an_address_is_not_downloaded_from():
    with pytest.raises(UserError, match=r"^https://x\.org/p\.jsonl is an address, and no data are downloaded"):
        read_rows("https://x.org/p.jsonl")


def test_rows_from_python_are_called_by_what_they_were_given_as(tmp_path, make_tokenizer):
    given = Given(tmp_path / "run")
    path = given.rows("prompts", [{"prompt": [u("w4")]}, {"prompt": [u("w5")]}], ("prompt",))
    with (
        given.stored(RunFolder(tmp_path / "run")),
        pytest.raises(UserError, match=r"^the rows given as prompts, row 1: "),
    ):
        load_prompts(path, make_tokenizer(template="{{ raise_exception('no') }}"), 50)


def test_a_name_of_the_hub_is_asked_of_the_hub(tmp_path, monkeypatch):
    asked = []

    def load_dataset(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_list(ROWS)

    with pytest.raises(UserError, match=r"no file or folder our/rows, and as a data set of the hub .*Offline"):
        read_rows("our/rows")
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read_rows("our/rows").values == read_rows("our/rows:test_prefs").values == ROWS
    assert asked == [("our/rows", "train"), ("our/rows", "test_prefs")]
    with pytest.raises(UserError, match=r"No such file or directory while reading our/rows\.jsonl"):
        read_rows("our/rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", b"[1, 2]", r"row 1 is not a JSON object"),
        ("a.json", b'[{"prompt": "w4"},', "is not JSON"),
        ("a.jsonl.gz", b"no", "is not a whole gzip file"),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:-9], "is not a whole gzip file"),
        ("a.csv", b"prompt,response\nw4\n", r"line 2 has another number of columns"),
        ("a.csv", b"prompt,response\nw4,w5,w6\n", r"line 2 has another number of columns"),
        ("a.txt", b"w4", r"cannot tell what .*a\.txt is: give a \.jsonl"),
    ],
)
def test_damaged_files_are_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said):
        read_rows(tmp_path / name)


# ---- rows


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [u("w4"), a("w5"), u("w6"), a("w7")]},
        {
            "conversations": [
                {"from": who, "value": f"w{i}"} for i, who in enumerate(["human", "gpt", "human", "gpt"], 4)
            ]
        },
        {"prompt": [u("w4"), a("w5"), u("w6")], "completion": [a("w7")]},
        {
            "prompt": [u("w4"), a("w5"), {"role": "user", "content": [{"type": "text", "text": "w6"}]}],
            "completion": "w7",
        },
    ],
    ids=["messages", "sharegpt", "completion", "parts"],
)
def test_conversations_are_read_in_every_common_shape(chat_tokenizer, row):
    ours = {"prompt": [u("w4"), a("w5"), u("w6")], "response": "w7"}
    assert load_examples([row], chat_tokenizer, 50).items == load_examples([ours], chat_tokenizer, 50).items
    assert load_prompts([row], chat_tokenizer, 50).items[0].source == ours["prompt"]


@pytest.mark.parametrize("prompt", ["w6", [u("w4"), a("w5"), u("w6")], None])
def test_a_prompt_beside_whole_conversations_is_what_they_begin_with(chat_tokenizer, prompt):
    """As in ultrafeedback_binarized and argilla's sets."""
    before = [u("w4"), a("w5"), u("w6")]
    row = {"prompt": prompt, "chosen": [*before, a("w7")], "rejected": [*before, a("w8")], "score_chosen": 8.0}
    ours = {"prompt": before, "chosen": "w7", "rejected": "w8"}
    assert load_pairs([row], chat_tokenizer, 50).items == load_pairs([ours], chat_tokenizer, 50).items
    other = row | {"prompt": "w9"}
    with pytest.raises(UserError, match="chosen and rejected begin with 'w6', and whose 'prompt' is another"):
        load_pairs([other], chat_tokenizer, 50)


@pytest.mark.parametrize(
    "rows",
    [["a.jsonl", "b.jsonl.gz"], ["a.csv"], ["notes.TXT"], [pathlib.Path("a.jsonl")], ["as it is"]],
    ids=["jsonl", "csv", "text", "path", "a file that is there"],
)
@pytest.mark.parametrize("fields", [("prompt",), ("prompt", "response"), ("prompt", "chosen", "rejected")])
def test_a_list_of_names_of_files_is_not_trained_on(tmp_path, monkeypatch, rows, fields):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "as it is").touch()
    with pytest.raises(UserError, match=r"data is a list of names of files \(.*give one file, or a folder"):
        as_rows(rows, "data", fields)


@pytest.mark.parametrize("text", ["Explain data.csv", "w4", "What is a .jsonl"])
def test_prompts_that_speak_of_files_are_prompts(text):
    assert as_rows([text], "prompts", ("prompt",)) == [{"prompt": text}]


@pytest.mark.parametrize("field", ["messages", "conversations", "prompt"])
def test_messages_that_are_written_as_json_are_messages(chat_tokenizer, field):
    said = [u("w4"), a("w5"), u("w6")]
    if field == "conversations":
        said = [{"from": {"user": "human"}.get(m["role"], "gpt"), "value": m["content"]} for m in said]
    row = {field: json.dumps(said)}
    assert load_prompts([row], chat_tokenizer, 50).items == load_prompts([{field: said}], chat_tokenizer, 50).items


def test_json_of_another_kind_is_text(chat_tokenizer):
    rows = [{"prompt": "w4", "response": json.dumps([{"from": "w5", "to": "w6", "value": 1}])}]
    assert load_examples(rows, chat_tokenizer, 500).items[0].response


@pytest.mark.parametrize("field", ["prompt", "response", "messages"])
def test_messages_as_python_prints_them_are_refused(chat_tokenizer, field):
    row = {"prompt": "w4", "response": "w5"} | {field: str([u("w4"), a("w5")])}
    with pytest.raises(UserError, match=f"row 1: {field!r} is text of messages as Python prints them"):
        load_examples([row], chat_tokenizer, 500)


def test_roles_of_sharegpt_are_read_in_capitals_too(chat_tokenizer):
    said = [{"from": "HUMAN", "value": "w4"}, {"from": "Assistant", "value": "w5"}]
    ours = {"prompt": [u("w4")], "response": "w5"}
    assert (
        load_examples([{"conversations": said}], chat_tokenizer, 50).items
        == load_examples([ours], chat_tokenizer, 50).items
    )


def test_fields_that_are_no_texts_stay_as_they_are(chat_tokenizer):
    edges = [{"from": "a", "to": "b", "value": 1}, {"from": [1], "value": 2}]
    read = load_prompts([{"prompt": [u("w4")], "edges": edges}], chat_tokenizer, 50).items[0]
    assert read.columns == {"edges": edges}


def test_one_conversation_in_a_file_is_one_row(tmp_path, chat_tokenizer):
    said = [{"from": "human", "value": "w4"}, {"from": "gpt", "value": "w5"}]
    (tmp_path / "one.json").write_text(json.dumps({"conversations": said}, indent=1))
    assert len(load_examples(tmp_path / "one.json", chat_tokenizer, 50).items) == 1


def test_numbers_of_pairs_are_read_from_csv(tmp_path, tiny_tokenizer):
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected,label,margin\nw4,w5,w6,0.75,\nw4,w5,w7,1,0.5\n")
    pairs = load_pairs(tmp_path / "p.csv", tiny_tokenizer, 50).items
    assert [(pair.label, pair.margin) for pair in pairs] == [(0.75, 0.0), (1.0, 0.5)]
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected,label\nw4,w5,w6,most\n")
    with pytest.raises(UserError, match="label = 'most' must be a share"):
        load_pairs(tmp_path / "p.csv", tiny_tokenizer, 50)


def test_messages_of_tools_and_calls_without_text_go_through_the_template(make_tokenizer):
    template = "{% for m in messages %}{{ m.role }} {{ m.content or m.tool_calls[0].function.name }} {% endfor %}"
    called = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "w9", "arguments": {}}}]}
    prompt = [u("w4"), called, {"role": "tool", "content": "w5"}]
    read = load_prompts([{"prompt": prompt}], make_tokenizer(template=template), 50).items[0]
    assert read.tokens == [2, 4, 3, 9, 1, 5]  # user w4 assistant w9 tool (unknown) w5
    assert whole_text(prompt, "w6") == "user: w4\nassistant: \ntool: w5\nassistant: w6"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "w4", "response": None}, r"without a 'response' that is text \(it is null in the first\)"),
        ({"prompt": "w4", "response": 5}, r"without a 'response' that is text \(it is the number 5 in the first\)"),
        ({"prompt": "w4", "response": "  "}, r"without a 'response' that is text \(it is blank in the first\)"),
        ({"prompt": "w4", "response": {"a": 1}}, r"without a 'response' that is text \(it is an object in the first\)"),
        ({"prompt": "w4"}, r"without a 'response' that is text \(the first has prompt\)"),
        ({"prompt": [], "response": "w5"}, r"without a 'prompt' .*\(the first's is an empty list\)"),
        (
            {"prompt": [u("w4"), {"role": "user"}], "response": "w5"},
            r"first's message 2 \(user\) has content that is null",
        ),
        ({"prompt": [{"content": "w4"}], "response": "w5"}, r"the first's message 1 has no role"),
        ({"prompt": ["w4"], "response": "w5"}, r"the first's message 1 is no object with role and content"),
        ({"messages": [u("w4"), {"role": "bot", "content": "w5"}]}, r"whose messages end with one of the role 'bot'"),
        ({"messages": [u("w4"), a("w5"), u("w6")]}, r"whose messages end with one of the role 'user'"),
        ({"question": "w4", "answer": "w5"}, r"did you mean question to be prompt\? Then rename it"),
        ({"query": "w4", "response": "w5"}, r"did you mean query to be prompt\? Then rename it"),
        ({"instruction": "w4", "input": " ", "output": "w5"}, r"did you mean instruction to be prompt\? Then rename"),
        ({"instruction": "w4", "input": "w5", "output": "w6"}, r"did you mean instruction and input to be prompt\?"),
        ({"prompt": "w4", "answer": "w5"}, r"did you mean answer to be response\? Then rename it"),
        ({"text": "w4 w5"}, r"did you mean text to be both\? Then split it: what is learnt is the response"),
    ],
)
def test_what_is_wrong_with_a_field_is_said(tiny_tokenizer, row, said):
    with pytest.raises(UserError, match=said):
        load_examples([row], tiny_tokenizer, 50)


def test_a_file_of_text_and_messages_is_refused(tmp_path, chat_tokenizer):
    rows = [{"prompt": [u("w4")]}, {"prompt": "w5"}, {"prompt": [u("w6")]}]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match="line 2: the prompt is text here and messages in the other rows"):
        load_prompts(file, chat_tokenizer, 50)


def test_pairs_with_equal_sides_are_left_out_and_said(tiny_tokenizer):
    same = {"prompt": "w4", "chosen": "w5", "rejected": "w5"}
    loaded = load_pairs([same, same | {"rejected": "w6"}], tiny_tokenizer, 50)
    assert len(loaded.items) == 1
    assert loaded.message == "left out 1 of 2 pairs of the list given: chosen and rejected are the same text"
    with pytest.raises(UserError, match="the same text in all 2 pairs"):
        load_pairs([same, same], tiny_tokenizer, 50)


def test_a_small_context_in_the_reward_stage_names_the_context_and_a_setting_that_exists(
    tmp_path, files, tiny_tokenizer
):
    llama(64, layers=1, context=8).save_pretrained(tmp_path / "small")
    tiny_tokenizer.save_pretrained(tmp_path / "small")
    rows = tmp_path / "long.jsonl"
    rows.write_text(json.dumps({"prompt": "w4 w5 w6 w7 w8", "chosen": "w9", "rejected": "w10"}) + "\n")
    config = RewardConfig(model=str(tmp_path / "small"), data=str(rows), output=str(tmp_path / "out"))
    with pytest.raises(UserError, match=r"has 8 tokens: beside samples of 4 tokens \(response_limit\) it has room for"):
        train_reward(config, console="quiet")
    assert hasattr(config, "response_limit")
    assert hasattr(config, "standardise_on")


# ---- reward functions

TEXTS = Texts(["p", "q"], ["a", "bb"], {"answer": ["x", "yy"], "n": [1, 2]}, [True, True], ["p", "q"])
CHAT = replace(TEXTS, sources=[[u("p")], [u("q")]])


async def waits(responses):
    await asyncio.sleep(0)
    return [float(len(r)) for r in responses]


class Scorer:
    def __call__(self, prompts, responses):
        return [float(len(r)) for r in responses]


FUNCTIONS = {
    "prompts and responses": lambda prompts, responses: [float(len(r)) for r in responses],
    "by place": lambda p, r, **_: [float(len(x)) for x in r],
    "one place": lambda texts: [float(len(x)) for x in texts],
    "keywords only": lambda *, responses, prompts: [float(len(r)) for r in responses],
    "everything": lambda *args, **columns: [float(len(r)) for r in args[1]],
    "a column": lambda prompts, responses, answer: [float(len(x)) for x in answer],
    "a column and the rest": lambda responses, n, **rest: [float(x) * (set(rest) == {"answer", "prompts"}) for x in n],
    "a default": lambda responses, missing=1: [missing * float(len(r)) for r in responses],
    "nothing by its name": lambda **all: [float(len(r)) for r in all["responses"]],
    "nothing by its name, as TRL": lambda **all: [
        float(len(r)) * (all["prompts"] == ["p", "q"]) for r in all["completions"]
    ],
    "prompts by their name": lambda prompts, **rest: [float(len(r)) for r in rest["responses"]],
    "a column beside the prompts": lambda prompts, answer, **rest: [float(len(r)) for r in rest["responses"]],
    "TRL": lambda completions, **columns: [float(len(r)) * len(columns["prompts"]) / 2 for r in completions],
    "TRL with a column": lambda prompts, completions, answer, **_: [float(len(x)) for x in answer],
    "coroutine": waits,
    "object": Scorer(),
    "numpy": lambda prompts, responses: np.array([len(r) for r in responses]),
    "torch": lambda prompts, responses: torch.tensor([[float(len(r))] for r in responses], requires_grad=True),
    "generator": lambda prompts, responses: (len(r) for r in responses),
    "its own lists": lambda prompts, responses: [float(len(responses.pop(0))), float(len(responses.pop(0)))],
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_reward_functions_get_what_they_ask_for(name):
    assert FunctionReward(FUNCTIONS[name], name="mine")(TEXTS).tolist() == [1.0, 2.0]
    assert TEXTS.responses == ["a", "bb"], "what it does with its lists is its own"


@pytest.mark.parametrize(
    "function",
    [
        lambda completions, solution, **_: [0.0, 0.0],
        lambda responses, solution: [0.0, 0.0],
        lambda prompts, completions, solution: [0.0, 0.0],
    ],
)
def test_a_column_that_is_missing_is_named_and_not_filled_with_prompts(function):
    with pytest.raises(UserError, match="reward mine asks for 'solution', which the prompts' rows do not have"):
        FunctionReward(function, name="mine")(TEXTS)


def test_a_coroutine_runs_within_a_running_loop_too():
    """As in a notebook."""

    async def cell():
        return FunctionReward(waits)(TEXTS).tolist()

    assert asyncio.run(cell()) == [1.0, 2.0]


def test_functions_of_trl_get_chat_messages_as_trl_gives_them():
    def trl(prompts, completions, **_):
        return [
            float(len(c[0]["content"])) + (p[0]["role"] == "user") for p, c in zip(prompts, completions, strict=True)
        ]

    assert FunctionReward(trl)(CHAT).tolist() == [2.0, 3.0]
    assert FunctionReward(lambda **all: [len(c[0]["content"]) for c in all["completions"]])(CHAT).tolist() == [1.0, 2.0]


MODES = {
    "grad mode": (lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    "default type": (lambda: torch.set_default_dtype(torch.float64), torch.get_default_dtype),
    "default device": (lambda: torch.set_default_device("meta"), torch.get_default_device),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_what_a_reward_function_sets_of_torch_is_put_back(mode, fails):
    change, seen = MODES[mode]
    before = seen()

    def reward(prompts, responses):
        change()
        return [1.0 / (not fails)] * len(responses)

    with pytest.raises(UserError) if fails else contextlib.nullcontext():
        FunctionReward(reward)(TEXTS)
    assert seen() == before


@pytest.mark.parametrize("name", ["completion_ids", "prompt_ids"])
def test_a_reward_function_that_asks_for_tokens_is_told_that_there_are_none(name):
    scope = {}
    exec(f"def mine(prompts, completions, {name}, **_): return [0.0] * len(completions)", scope)
    with pytest.raises(UserError, match=f"asks for '{name}', but rewards are given texts and no tokens"):
        FunctionReward(scope["mine"])(TEXTS)


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (
            lambda prompts, responses: {r: 1.0 for r in responses},
            "must give one number .*: it gave a dict",
        ),
        (
            lambda prompts, responses: {1.0, 2.0},
            "must give one number .*: it gave a set",
        ),
        (lambda prompts, responses: "12", "must give .*: it gave a str"),
        (lambda prompts, responses: None, "must give .*: it gave a NoneType"),
        (lambda prompts, responses: 1.0, "must give one number per response"),
        (lambda prompts, responses: [1.0, float("nan")], "gave nan for response 1 .*, or None where it does not apply"),
        (lambda prompts, responses: [1.0, 1e300], "gave 1e[+]300 for response 1"),
        (
            lambda prompts, responses, wanted: [1.0, 1.0],
            r"asks for 'wanted', which .* do not have \(they have answer, n\)",
        ),
        (lambda prompts, responses: exit(3), r"failed at .*test_own_data\.py, line \d+ \(SystemExit: 3\)"),
        (lambda prompts, responses: json.loads(responses[0]), r"failed at .*own_data\.py, line \d+ \(JSONDecodeError"),
    ],
)
def test_what_a_reward_function_does_wrong_is_said(function, said):
    with pytest.raises(UserError, match=f"reward mine {said}"):
        FunctionReward(function, name="mine")(TEXTS)


def test_a_failing_reward_function_is_named_with_file_and_line(tmp_path, monkeypatch):
    code = "import json\n\n\ndef score(prompts, responses):\n    return [json.loads('{')]\n"
    (tmp_path / "own_reward.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    from own_reward import score

    with pytest.raises(UserError, match=r"reward score failed at .*own_reward\.py, line 5 \(JSONDecodeError"):
        FunctionReward(score)(TEXTS)


def test_a_term_that_does_not_apply_adds_nothing(ppo_config, tmp_path):
    some = FunctionReward(lambda prompts, responses: [None, 4.0], 2.0, "some")
    none = FunctionReward(lambda prompts, responses: [None, None], 1.0, "none")
    total, each = combine([some, none], TEXTS)
    assert total.tolist() == [0.0, 8.0]
    assert each["none"].isnan().all()

    def half(prompts, responses):
        return [None if i % 2 else 1.0 for i in range(len(responses))]

    config = replace(ppo_config, responses=8, run=str(tmp_path / "run"))
    terms = [FunctionReward(half), FunctionReward(lambda prompts, responses: [None] * len(responses), name="never")]
    run = run_ppo(config, mode="quiet", rewards=[*terms, FunctionReward(per_word)], preflight="warn")
    row = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])
    assert (row["reward/half"], row["unrewarded/half"]) == (1.0, 0.5)
    assert (row["reward/never"], row["unrewarded/never"]) == (None, 1.0)
    assert "unrewarded/per_word" not in row


def test_an_address_is_no_reward():
    for address in ("http://here:80/score", "localhost:8000", "127.0.0.1:8000/score", "here:80/x@y", "[::1]:80"):
        with pytest.raises(UserError, match=f"{re.escape(address)} is an address: rewards are folders of"):
            is_function(address)
    assert is_function("own_module:score_8000")


# ---- reward models


@pytest.fixture
def kinds(tmp_path):
    """Reward models as others save them, on one tokenizer of bytes."""
    tokenizer = byte_tokenizer(special=("<|im_start|>", "<|im_end|>", "[SEP]"))
    tokenizer.pad_token = "<|endoftext|>"
    base = llama(len(tokenizer), layers=1, context=64)
    base.config.pad_token_id = 0

    def put(model, name, *, own=True):
        model.save_pretrained(tmp_path / name)
        if own:
            tokenizer.save_pretrained(tmp_path / name)
        return tmp_path / name

    def classifier(labels):
        torch.manual_seed(labels)
        config = base.config.__class__(**{**base.config.to_dict(), "num_labels": labels, "initializer_range": 0.5})
        return AutoModelForSequenceClassification.from_config(config).eval()

    def bert(labels):
        torch.manual_seed(labels)
        size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = BertConfig(vocab_size=len(tokenizer), num_labels=labels, max_position_embeddings=48, **size)
        config.initializer_range = 0.5
        return BertForSequenceClassification(config).eval()

    put(base, "base")
    put(classifier(1), "one")
    two = classifier(2)
    two.config.id2label, two.config.label2id = {0: "BAD", 1: "GOOD"}, {"BAD": 0, "GOOD": 1}
    put(two, "two")
    put(bert(1), "bert")
    put(bert(3), "bert3")
    lora = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"], init_lora_weights=False)
    whole = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=1)
    put(get_peft_model(whole, lora), "adapter", own=False)
    return tmp_path


def scored(name, texts):
    return load_reward_term(str(name), 1.0, "r")(texts)


SAID = Texts(["Say ", "Tell "], ["it", "all of it [SEP]"], {}, [True, True], ["Say ", "Tell "])


def test_a_decoder_of_two_labels_scores_by_the_odds_of_the_one_that_is_named(kinds):
    tokenizer = load_tokenizer(str(kinds / "two"))
    plain = AutoModelForSequenceClassification.from_pretrained(kinds / "two").eval()
    expected = []
    for prompt, response in zip(SAID.prompts, SAID.responses, strict=True):
        ids = tokenizer(prompt + response, split_special_tokens=True)["input_ids"] + [tokenizer.eos_token_id]
        plain.config.pad_token_id = plain.config.get_text_config().pad_token_id = 250
        with torch.no_grad():
            p = plain(torch.tensor([ids])).logits[0].softmax(-1)
        expected.append(float(torch.log(p[1] / p[0])))
    assert scored(kinds / "two@GOOD", SAID).tolist() == pytest.approx(expected, abs=1e-4)
    assert scored(kinds / "two@bad", SAID).tolist() == pytest.approx([-x for x in expected], abs=1e-4)
    with pytest.raises(UserError, match=r"classifier with the labels BAD, GOOD: say whose .*two@GOOD"):
        scored(kinds / "two", SAID)
    with pytest.raises(UserError, match=r"has no label GOD: did you mean GOOD\?"):
        scored(kinds / "two@GOD", SAID)
    with pytest.raises(UserError, match=r"one output and no labels: name it without @GOOD"):
        scored(kinds / "one@GOOD", SAID)


def test_an_encoder_reads_prompt_and_response_as_a_pair_or_a_text_of_both(kinds):
    """What a response spells stays text."""
    tokenizer = load_tokenizer(str(kinds / "bert"))
    one, three = (BertForSequenceClassification.from_pretrained(kinds / name).eval() for name in ("bert", "bert3"))
    for i in range(2):
        pair = tokenizer(SAID.prompts[i], SAID.responses[i], split_special_tokens=True, return_tensors="pt")
        text = tokenizer(SAID.prompts[i] + SAID.responses[i], split_special_tokens=True, return_tensors="pt")
        with torch.no_grad():
            number, p = one(**pair).logits[0, 0], three(**text).logits[0].softmax(-1)
        assert float(scored(kinds / "bert", SAID)[i]) == pytest.approx(float(number), abs=1e-4)
        odds = torch.log(p[2] / (1 - p[2]))
        assert float(scored(kinds / "bert3@LABEL_2", SAID)[i]) == pytest.approx(float(odds), abs=1e-4)


@pytest.mark.parametrize("kind", ["bert", "bert3@LABEL_0"])
def test_of_a_text_that_is_too_long_for_an_encoder_the_end_is_read(kinds, kind):
    long = replace(SAID, prompts=["x" * 60 + "end", "y"], sources=["x" * 60 + "end", "y"])
    term = load_reward_term(str(kinds / kind), 1.0, "r")
    scores = term(long)
    assert term.model.cut_share == 0.5
    room = 48 - len("it")
    short = replace(long, prompts=[("x" * 60 + "end")[-room:], "y"], sources=[("x" * 60 + "end")[-room:], "y"])
    torch.testing.assert_close(scores, term(short))
    endless = replace(SAID, responses=["it", "z" * 60])
    if kind == "bert":
        with pytest.raises(UserError, match=r"reward r: response .* alone is longer than .* context of 48"):
            term(endless)
    else:  # one text, of which the end is the response's
        assert float(term(endless)[1]) == pytest.approx(float(term(replace(endless, responses=["it", "z" * 48]))[1]))


def test_a_classifiers_adapter_is_merged_into_its_base_whose_tokenizer_it_has(kinds):
    from peft import PeftModel

    whole = AutoModelForSequenceClassification.from_pretrained(kinds / "base", num_labels=1)
    plain = PeftModel.from_pretrained(whole, kinds / "adapter").eval()
    tokenizer = load_tokenizer(str(kinds / "base"))
    both = SAID.prompts, SAID.responses
    ids = [tokenizer(p + r, split_special_tokens=True)["input_ids"] + [0] for p, r in zip(*both, strict=True)]
    plain.config.pad_token_id = plain.base_model.model.config.pad_token_id = 250
    with torch.no_grad():
        expected = [float(plain(input_ids=torch.tensor([row])).logits[0, 0]) for row in ids]
    assert scored(kinds / "adapter", SAID).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("named", ["/home/someone/models/base", "C:\\models\\base", "../models/base"])
def test_an_adapter_from_another_machine_finds_its_base_beside_it(kinds, named):
    file = kinds / "adapter" / "adapter_config.json"
    before = scored(kinds / "adapter", SAID)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": named}))
    assert torch.equal(scored(kinds / "adapter", SAID), before)
    shutil.move(kinds / "base", kinds / "elsewhere")
    with pytest.raises(UserError, match=r"names its base .*, which is not on this machine: write where it is"):
        scored(kinds / "adapter", SAID)


def test_an_adapter_that_changes_no_weights_and_one_without_a_head_are_named(kinds):
    model = LlamaForCausalLM.from_pretrained(kinds / "base")
    get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)).save_pretrained(
        kinds / "soft"
    )
    with pytest.raises(UserError, match="is a PROMPT_TUNING adapter, which puts vectors before a prompt instead of"):
        load_causal_model(str(kinds / "soft"))
    model = LlamaForCausalLM.from_pretrained(kinds / "base")
    get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(kinds / "policy")
    with pytest.raises(UserError, match="has no head with scores, so it is no reward model: train it with task_type"):
        scored(kinds / "policy", SAID)
    assert load_tokenizer(str(kinds / "policy")).eos_token_id == 0, (
        "a policy's adapter leaves its tokenizer to its base too"
    )


def test_weights_that_can_run_code_are_named(kinds):
    model = LlamaForCausalLM.from_pretrained(kinds / "base")
    (kinds / "base" / "model.safetensors").unlink()
    torch.save(model.state_dict(), kinds / "base" / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"has no model\.safetensors; weights are loaded from safetensors only"):
        load_causal_model(str(kinds / "base"))


def test_a_label_stays_with_its_folder_wherever_the_run_is(kinds, ppo_config, monkeypatch):
    monkeypatch.chdir(kinds)
    config = located(replace(ppo_config, rewards={"two@GOOD": 1.0, "bert": 0.5}))
    assert config.rewards == {f"{kinds}/two@GOOD": 1.0, f"{kinds}/bert": 0.5}
    rows = kinds / "ask.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"Say {i}: "}) + "\n" for i in range(4)))
    options = ["--prompts", str(rows), "--responses", "8", "--batch", "8", "--response-limit", "4", "--run", "run"]
    options += ["--update.minibatch-size", "4", "--override-preflight", "--quiet", "--rewards", "two@GOOD", "1.0"]
    assert main(["rlhf", "ppo", "--policy", "base", *options, "--rewards", "bert", "0.5"]) == 0
    row = json.loads((kinds / "run/ppo/metrics.jsonl").read_text().splitlines()[0])
    assert {"reward/two@GOOD", "reward/bert"} <= set(row)


def test_an_edited_reward_function_is_another_run(ppo_config, tmp_path):
    """From Python it gets the next free folder; half a run goes on with other code only if that is asked for."""
    config = replace(ppo_config, responses=16, run=str(tmp_path / "run"))

    def run(gain, **call):
        def score(prompts, responses):
            return [gain * len(r.split()) for r in responses]

        return run_ppo(config, mode="quiet", rewards=[FunctionReward(score)], call=Call(**call), preflight="off")

    first, second = run(0.1), run(0.5)
    assert (first.path.name, second.path.name) == ("run", "run-2")
    assert run(0.1).path == first.path
    assert [json.loads(line)["reward/score"] for line in (first.path / "metrics.jsonl").open()] != [
        json.loads(line)["reward/score"] for line in (second.path / "metrics.jsonl").open()
    ]
    config = replace(config, run=str(tmp_path / "half"))
    run(0.1, stop_at=8)
    with pytest.raises(UserError, match="holds a run of another reward score: its code, or what it holds, was"):
        run(0.5)
    run(0.5, allow_change=True)


class Bag(collections.abc.Set):
    def __contains__(self, x):
        return x in (1, 2)

    def __iter__(self):
        return iter((1, 2))

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    "given", [{0.5: 1, 0.25: 2}.keys(), Bag(), bytearray(b"ab"), pandas.DataFrame({0: [0.1, 0.2], 1: [0.3, 0.4]})]
)
def test_what_has_no_order_or_other_columns_is_no_list_of_scores(given):
    with pytest.raises(UserError, match="reward mine must give one number per response, as a list in their order"):
        scores_of(given, "mine")


def test_a_column_of_a_table_is_a_list_of_scores():
    assert scores_of(pandas.DataFrame({"score": [0.5, 0.25]})["score"], "mine") == [0.5, 0.25]


def test_pairs_whose_sides_differ_by_the_end_that_a_file_spells_are_left_out():
    rows = [
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "a<|im_end|>"},
        {"prompt": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b"},
    ]
    loaded = load_pairs(rows, byte_tokenizer(), 99)
    assert len(loaded.items) == 1
    assert "left out 1 of 2 pairs" in loaded.message


@pytest.mark.parametrize("field", ["tool_calls", "reasoning_content", "function_call"])
def test_an_answer_of_which_a_part_would_be_left_out_is_refused(field):
    answer = {"role": "assistant", "content": "w5", field: [{"function": {"name": "f"}}]}
    ask = {"role": "user", "content": "w4"}
    with pytest.raises(
        UserError, match=f"whose 'response' has {field} beside its content, which alone would be learnt"
    ):
        load_examples([{"messages": [ask, answer]}], byte_tokenizer(), 99)
    kept = {**answer, field: None}
    assert len(load_examples([{"messages": [ask, kept]}], byte_tokenizer(), 99).items) == 1
