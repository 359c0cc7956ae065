"""Rows become the tokens that are trained; what is wrong with a file is said with its lines."""

import json

import datasets
import pytest
import torch
from tokenizers import normalizers

from proximo.errors import UserError
from proximo.language.data.coder import Coder
from proximo.language.data.dataset import load_examples, load_pairs, load_prompts
from proximo.language.data.rows import read_rows
from proximo.language.sampling.sampler import Samples, stop_tokens
from proximo.language.sampling.texts import to_texts

CHAT = [{"role": "user", "content": "w4 w5"}]


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_one_set_of_rows_reads_alike_from_every_format(tmp_path):
    rows = [
        {"prompt": "w4", "chosen": "w5 w6", "rejected": "w7", "label": 0.75},
        {"prompt": "w8", "chosen": "w9", "rejected": "w4", "label": 1.0},
    ]
    data = datasets.Dataset.from_list(rows)
    data.save_to_disk(tmp_path / "saved")
    data.to_parquet(tmp_path / "rows.parquet")
    sources = [write(tmp_path / "rows.jsonl", *rows), tmp_path / "rows.parquet", tmp_path / "saved", data, rows]
    for source in sources:
        assert read_rows(source).values == rows, source


def test_what_is_trained_is_prompt_then_response_then_eos(tiny_tokenizer):
    example = load_examples([{"prompt": "w4 w5", "response": "w6"}], tiny_tokenizer, 10).items[0]
    assert (example.prompt, example.response) == ([4, 5], [6, 0])
    pair = load_pairs([{"prompt": "w4", "chosen": "w5", "rejected": "w6 w7"}], tiny_tokenizer, 10).items[0]
    assert (pair.chosen, pair.rejected, pair.label) == ([4, 5, 0], [4, 6, 7, 0], 1.0)


def test_an_eos_within_the_prompt_stays_and_one_that_ends_the_response_is_not_doubled(tiny_tokenizer):
    example = load_examples([{"prompt": "w4 </s> w5 </s>", "response": "w6 </s>"}], tiny_tokenizer, 10).items[0]
    assert (example.prompt, example.response) == ([4, 0, 5, 0], [6, 0])


def test_chat_messages_go_through_the_template_and_end_at_eos(chat_tokenizer):
    example = load_examples([{"prompt": CHAT, "response": "w6"}], chat_tokenizer, 20).items[0]
    assert example.prompt == [2, 4, 5, 0, 3]  # user w4 w5 </s> assistant
    assert example.response == [6, 0]
    unfinished = Coder(chat_tokenizer).response_ids(CHAT, "w6", finished=False)
    assert unfinished == [6], "a response that was cut off has no EOS of the template's"


@pytest.mark.parametrize(
    ("template", "closes"),
    [
        # Its end of a turn is not the tokenizer's EOS, as in many base models with a chat template.
        ("{% for m in messages %}{{ m.role }} {{ m.content | trim }} w60 {% endfor %}", [60, 0]),
        # An end that says what a response may say too; and a mark before every answer that the generation prompt lacks.
        ("{% for m in messages %}{{ m.role }} w6 {{ m.content }} w6 w60 {% endfor %}", [6, 60, 0]),
    ],
)
def test_a_response_that_was_cut_off_has_no_end_of_turn(make_tokenizer, template, closes):
    """PPO scores it so; with the end of a turn the reward model would take it for a whole answer."""
    start = "{% if add_generation_prompt %}assistant {% endif %}"
    coder = Coder(make_tokenizer(template=template + start))
    whole = coder.response_ids(CHAT, "w6 w7 w6")
    cut = coder.response_ids(CHAT, "w6 w7 w6", finished=False)
    assert cut == [6, 7, 6], "its own tokens, behind the generation prompt"
    assert whole == [*cut, *closes]
    assert coder.prompt_ids(CHAT)[-1] == 3, "the assistant's turn begins in the prompt"


def chat_tokenizer_ending(make_tokenizer, ending):
    """Its template ends a turn with `ending`, of which w60 is a special token and not the tokenizer's EOS."""
    turns = "{% for m in messages %}{{ m.role }} {{ m.content }} " + ending + " {% endfor %}"
    made = make_tokenizer(template=turns + "{% if add_generation_prompt %}assistant {% endif %}")
    made.add_special_tokens({"extra_special_tokens": ["w60"]})
    return made


@pytest.mark.parametrize(
    ("ending", "end"), [("w60 w61", 60), ("w60", 60), ("w61 w60", 60), ("w60 </s>", 0), ("w61", 0), ("", 0)]
)
def test_a_response_to_chat_messages_ends_where_the_template_says_so(make_tokenizer, ending, end, tiny_model):
    """With a special token of its own (w60) where it writes no EOS: the base models of Qwen2.5 are like that."""
    tokenizer = chat_tokenizer_ending(make_tokenizer, ending)
    row = {"prompt": CHAT, "response": "w6 w7"}
    learnt = load_examples([row], tokenizer, 50).items[0]
    asked, plain = (load_prompts([x], tokenizer, 50).items for x in (row, {"prompt": "w4"}))
    stop = stop_tokens(tiny_model, tokenizer, asked)
    assert learnt.response[-1] == end == stop[0]
    assert learnt.response.count(end) == 1
    assert set(stop) == {end, 0}
    assert stop_tokens(tiny_model, tokenizer, plain) == (0,), "text ends with EOS alone"
    assert load_examples([{"prompt": "w4", "response": "w6"}], tokenizer, 50).items[0].response == [6, 0]


@pytest.mark.parametrize("ending", ["w60 w61", "w60"])
def test_an_answer_as_it_was_learnt_is_read_as_it_was_written(make_tokenizer, tiny_model, ending):
    """Sampled up to the first token that stops it, PPO's answer is the text of the pairs, and is scored as they are."""
    tokenizer = chat_tokenizer_ending(make_tokenizer, ending)
    learnt = load_examples([{"prompt": CHAT, "response": "w6 w7"}], tokenizer, 50).items[0].response
    asked = load_prompts([{"prompt": CHAT}], tokenizer, 50).items
    stop = stop_tokens(tiny_model, tokenizer, asked)
    sampled = learnt[: next(i for i, token in enumerate(learnt) if token in stop) + 1]
    assert sampled == learnt
    tokens = torch.tensor([sampled])
    zeros = torch.zeros(tokens.shape)
    samples = Samples(tokens, zeros, torch.tensor([len(sampled)]), torch.tensor([True]), zeros, [])
    assert to_texts(asked, samples, tokenizer).responses == ["w6 w7"]


def test_a_template_that_refuses_messages_is_one_sentence_with_the_line(tmp_path, make_tokenizer):
    strict = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ messages[0].content }}"
    )
    path = write(
        tmp_path / "rows.jsonl",
        {"prompt": CHAT, "response": "w6"},
        {"prompt": [{"role": "system", "content": "w7"}, *CHAT], "response": "w6"},
    )
    for load in (load_prompts, load_examples):
        with pytest.raises(UserError) as error:
            load(path, make_tokenizer(template=strict), 50)
        assert str(error.value) == (
            f"{path}, line 2: the tokenizer's chat template refuses messages of system, user (no system role): change "
            "them, or take another template"
        )
    broken = make_tokenizer(template="{{ messages[0].content + 1 }}")
    with pytest.raises(UserError, match="line 1: the tokenizer's chat template refuses messages of user"):
        load_prompts(path, broken, 50)


def test_chat_without_a_template_is_refused(tiny_tokenizer):
    with pytest.raises(UserError, match="no chat template: give prompts as text"):
        load_prompts([{"prompt": CHAT}], tiny_tokenizer, 10)


def test_a_tokenizer_without_eos_is_refused(make_tokenizer):
    with pytest.raises(UserError, match="no EOS token"):
        load_prompts([{"prompt": "w4"}], make_tokenizer(eos=False), 10)


def test_prompts_keep_the_other_columns(tiny_tokenizer):
    prompt = load_prompts([{"prompt": "w4 w5", "answer": 7}], tiny_tokenizer, 10).items[0]
    assert (prompt.tokens, prompt.text, prompt.columns) == ([4, 5], "w4 w5", {"answer": 7})


def test_over_long_rows_are_counted_and_said(tmp_path, tiny_tokenizer):
    rows = [{"prompt": "w4 " * n, "response": "w5"} for n in (1, 3, 9)]
    path = write(tmp_path / "rows.jsonl", *rows)
    loaded = load_examples(path, tiny_tokenizer, 5)  # 3 + response + EOS just fits
    assert (len(loaded.items), loaded.dropped) == (2, 1)
    assert loaded.message == f"dropped 1 of 3 rows of {path}: longer than 5 tokens (the longest has 11)"
    with pytest.raises(UserError, match=r"all 3 rows .* longer than 2 tokens \(the shortest has 3\): raise the limit"):
        load_examples(path, tiny_tokenizer, 2)


def test_missing_and_empty_fields_are_named_by_file_and_line(tmp_path, tiny_tokenizer):
    good = {"prompt": "w4", "chosen": "w5", "rejected": "w6"}
    path = write(tmp_path / "p.jsonl", good, "", {**good, "chosen": " "}, good, {"prompt": "w4", "rejected": "w5"})
    with pytest.raises(UserError) as error:
        load_pairs(path, tiny_tokenizer, 10)
    assert str(error.value) == (
        f"{path}, line 3 and 5: 2 of 4 rows without a 'chosen' that is text (it is blank in the first): "
        "fill or remove them"
    )


@pytest.mark.parametrize("load", [load_prompts, load_examples])
def test_a_prompt_that_comes_to_no_token_is_named(tiny_tokenizer, load):
    """As of a tokenizer that drops what it does not know."""
    tiny_tokenizer.backend_tokenizer.normalizer = normalizers.Replace("w9", "")
    rows = [{"prompt": "w5", "response": "w6"}, {"prompt": "w9", "response": "w6"}]
    with pytest.raises(UserError, match="row 2: the tokenizer makes no token of this prompt"):
        load(rows, tiny_tokenizer, 10)


def test_many_bad_rows_name_the_first_and_count_the_rest(tmp_path, tiny_tokenizer):
    path = write(tmp_path / "p.jsonl", *[{"promt": "w4"}] * 9)
    with pytest.raises(
        UserError, match=r"line 1, 2, 3, 4, 5 and 4 more: 9 of 9 rows.*did you mean promt to be prompt\?"
    ):
        load_prompts(path, tiny_tokenizer, 10)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ('{"prompt": "w4"', "line 2 is not JSON"),
        ('"w4"', "line 2 is not a JSON object"),
        (
            '{"prompt": "w4", "chosen": "w5", "rejected": "w6", "label": 1.5}',
            r"line 2: label = 1.5 must be a share in \[0, 1\]",
        ),
        (
            '{"prompt": "w4", "chosen": "w5", "rejected": "w6", "margin": "x"}',
            "line 2: margin = 'x' must be a finite number",
        ),
        ('{"prompt": "w4", "chosen": "w5", "rejected": "w6", "margin": NaN}', "line 2: margin = nan must be a finite"),
    ],
)
def test_damaged_lines_are_named(tmp_path, tiny_tokenizer, row, said):
    path = write(tmp_path / "p.jsonl", {"prompt": "w4", "chosen": "w5", "rejected": "w6"}, row)
    with pytest.raises(UserError, match=said):
        load_pairs(path, tiny_tokenizer, 10)


def said(content, role="assistant"):
    return {"role": role, "content": content}


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "saved", "list"])
def test_an_answer_as_one_assistant_message_is_its_text(tmp_path, chat_tokenizer, kind):
    """As TRL's conversational format has it, and as text: the same tokens."""
    plain = [{"prompt": CHAT, "chosen": "w5 w6", "rejected": "w7", "response": "w8", "label": 0.75}]
    fields = ("chosen", "rejected", "response")
    rows = [row | {name: [said(row[name])] for name in fields} for row in plain]
    source = rows
    if kind == "jsonl":
        source = write(tmp_path / "rows.jsonl", *rows)
    if kind == "parquet":
        source = tmp_path / "rows.parquet"
        datasets.Dataset.from_list(rows).to_parquet(source)
    if kind == "saved":
        source = tmp_path / "saved"
        datasets.Dataset.from_list(rows).save_to_disk(source)
    for load in (load_pairs, load_examples):
        assert load(source, chat_tokenizer, 30).items == load(plain, chat_tokenizer, 30).items


def test_whole_conversations_without_a_prompt_are_split_where_they_part(chat_tokenizer):
    """As in TRL's implicit prompts: what was said before the two answers is the prompt, of PPO's samples too."""
    before = [said("w4", "user"), said("w5"), said("w6 w7", "user")]
    row = {"chosen": [*before, said("w8")], "rejected": [*before, said("w9")], "source": "us"}
    split = {"prompt": before, "chosen": "w8", "rejected": "w9", "source": "us"}
    assert load_pairs([row], chat_tokenizer, 30).items == load_pairs([split], chat_tokenizer, 30).items
    assert load_prompts([row], chat_tokenizer, 30).items[0].source == before


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        # The prompt and whole conversations.
        (
            {"prompt": "w4", "chosen": [said("w4", "user"), said("w5")], "rejected": "w6"},
            r"whose 'chosen' is a list, but not of one assistant message \(the first has 2\): give the last answer",
        ),
        ({"prompt": CHAT, "chosen": "w5", "rejected": [said("w6", "user")]}, "whose 'rejected' is a list, but not of"),
        ({"prompt": CHAT, "chosen": "w5", "rejected": []}, "whose 'rejected' is a list, but not of"),
        ({"prompt": CHAT, "chosen": "w5", "rejected": [said(" ")]}, "without a 'rejected' that is text"),
        # Nothing is the same in both.
        (
            {"chosen": [said("w4", "user"), said("w5")], "rejected": [said("w6", "user"), said("w7")]},
            "without a 'prompt' that is text or messages .*: what chosen and rejected begin with alike is the prompt",
        ),
        (
            {"chosen": "w4 w5", "rejected": "w4 w6"},
            "without a .* what chosen and rejected begin with alike is",
        ),
        # They part before the last answer.
        (
            {
                "chosen": [said("w4", "user"), said("w5"), said("w6", "user"), said("w7")],
                "rejected": [said("w4", "user"), said("w8"), said("w6", "user"), said("w7")],
            },
            r"whose 'chosen' is a list, but not of one assistant message \(the first has 3\)",
        ),
    ],
)
def test_conversations_that_can_not_be_split_are_named(tmp_path, chat_tokenizer, row, fault):
    path = write(tmp_path / "rows.jsonl", {"prompt": CHAT, "chosen": "w4", "rejected": "w5"}, row)
    with pytest.raises(UserError, match=f"rows.jsonl, line 2: 1 row {fault}"):
        load_pairs(path, chat_tokenizer, 30)


def test_reward_functions_get_the_other_columns_as_the_rows_have_them(tiny_tokenizer):
    row = {"prompt": "w4", "response": [said("w5")], "chosen": [said("w6")]}
    prompt = load_prompts([row], tiny_tokenizer, 10).items[0]
    assert prompt.columns == {"response": [said("w5")], "chosen": [said("w6")]}


def test_files_that_are_not_there_or_hold_nothing(tmp_path, tiny_tokenizer):
    for name, said in [("none.jsonl", "none.jsonl"), ("x.txt", "there is no .*x.txt: give a .jsonl")]:
        with pytest.raises(UserError, match=said):
            load_prompts(tmp_path / name, tiny_tokenizer, 10)
    with pytest.raises(UserError, match="holds no rows"):
        load_prompts(write(tmp_path / "empty.jsonl"), tiny_tokenizer, 10)
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(UserError, match="is not a Parquet file"):
        load_prompts(tmp_path / "bad.parquet", tiny_tokenizer, 10)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="no folder saved by datasets"):
        load_prompts(tmp_path / "folder", tiny_tokenizer, 10)


@pytest.mark.parametrize(
    "row",
    [
        '{"prompt": "w4 \\ud800"}',
        '{"prompt": [{"role": "user", "content": "\\udfff"}]}',
        '{"prompt": [{"role": "user", "content": 5}]}',
        '{"prompt": [{"role": "user"}]}',
    ],
)
def test_half_a_character_and_messages_that_are_no_text_are_refused(tmp_path, chat_tokenizer, row):
    file = tmp_path / "rows.jsonl"
    file.write_text(row)
    with pytest.raises(UserError, match=r"rows\.jsonl, line 1: 1 row without a 'prompt' that is text"):
        load_prompts(str(file), chat_tokenizer, 50)


def test_json_that_is_nested_without_end_is_refused(tmp_path, tiny_tokenizer):
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": ' + "[" * 100_000)
    with pytest.raises(UserError, match=r"line 1 is not JSON \(nested too deep\)"):
        load_prompts(str(file), tiny_tokenizer, 50)
