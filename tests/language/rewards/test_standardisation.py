"""The scale of scores: mean 0 and variance 1 on samples of the model that PPO starts from; what a judge reads."""

import json
from dataclasses import replace

import pytest
import torch
from tokenizers import processors

from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.models.loading import load_encoder, load_text_tokenizer
from proximo.language.rewards.judge import Judge, whole_text
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.rewards.standardise import standard_texts
from proximo.language.sampling.samples import different_prompts, sample_rows
from proximo.language.stages import configure
from proximo.language.supervised.judge import judge_pairs, train_judge
from proximo.language.supervised.reward import train_reward


@pytest.fixture
def reward(tiny_folder):
    return RewardModel.from_language_model(str(tiny_folder))


def test_the_models_own_responses_are_what_is_standardised_on(tmp_path, tiny_folder, reward):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{i} w5"}) + "\n" for i in range(10, 40)))
    config = RewardConfig(standardise_on=str(prompts), standardise_rows=20, response_limit=5)
    rows = sampled(config, tiny_folder, reward)
    assert len(rows) == 20
    assert [row[:2] for row in rows] == [[i, 5] for i in range(10, 30)]
    ended = [row[-1] == 0 for row in rows]
    assert any(ended)
    assert not all(ended), "a response that reaches the cap is not given an EOS"
    assert max(len(row) for row in rows) == 2 + 5
    assert rows == sampled(config, tiny_folder, reward), "the same seed draws the same responses"


def sampled(config, policy, reward):
    rows = standard_texts(config, str(policy)).rows
    return [reward.tokens(row["prompt"], row["response"], finished=row["finished"]) for row in rows]


def test_samples_are_drawn_as_ppo_draws_them(tmp_path, tiny_model, tiny_folder, reward):
    """At the run's temperature, near 0 always the likeliest token, and to every token that ends a response."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "w7 w5"}) + "\n")
    config = RewardConfig(standardise_on=str(prompts), standardise_rows=30, response_limit=3, temperature=1e-4)
    greedy = sampled(config, tiny_folder, reward)
    assert all(row == greedy[0] for row in greedy), "one prompt is answered again, and always alike"
    assert len({tuple(row) for row in sampled(replace(config, temperature=5.0), tiny_folder, reward)}) > 20
    tiny_model.generation_config.eos_token_id = [0, greedy[0][2]]  # the model's own end of turn
    tiny_model.save_pretrained(tiny_folder)
    assert {tuple(row) for row in sampled(config, tiny_folder, reward)} == {(*greedy[0][:2], 0)}


def test_prompts_that_ppo_would_not_ask_are_not_asked_for_samples(tmp_path, tiny_folder, preset):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("w7", "w7 w8 w9", "w8 w9")))
    config = RewardConfig(standardise_on=str(prompts), standardise_rows=4, response_limit=3, prompt_limit=2)
    texts = standard_texts(config, str(tiny_folder))
    assert [row["prompt"] for row in texts.rows] == ["w7", "w8 w9", "w7", "w8 w9"]
    assert texts.message == f"dropped 1 of 3 prompts of {prompts}: longer than 2 tokens (the longest has 3)"
    preset.write_text(preset.read_text().replace("[ppo]", "[ppo]\nprompt_limit = 7"))
    assert configure("reward", str(preset), "").prompt_limit == configure("ppo", str(preset), "").prompt_limit == 7


def test_one_prompt_of_many_pairs_is_one_prompt():
    pairs = [{"prompt": p, "chosen": "w6", "rejected": f"w{i}"} for p in ("w4", "w5") for i in range(6, 9)]
    rows = different_prompts(pairs, 10)
    assert [row["prompt"] for row in rows.values] == ["w4", "w5"]
    assert rows.numbers == [1, 4]
    assert different_prompts(pairs, 1).numbers == [1]


def test_a_reward_model_is_standardised_on_samples_of_the_model_it_starts_from(tmp_path, files, tiny_folder):
    """The issue's default: nothing but model and pairs is named."""
    output = tmp_path / "reward"
    config = RewardConfig(model=str(tiny_folder), data=str(files / "pairs.jsonl"), output=str(output), batch=8)
    results = train_reward(config, console="quiet")
    assert results["standardised_on"] == f"256 samples of {tiny_folder}"
    rows = sample_rows(str(tiny_folder), config.data, 256).items
    model = RewardModel.load(str(output))
    # It reads as the model does: the tokens that were sampled, not what is left of them in a text.
    scores = model.score([model.sampled_tokens(r["prompt"], *r["tokens"], finished=r["finished"]) for r in rows])
    assert abs(float(scores.mean())) < 1e-3
    assert abs(float(scores.std(unbiased=False)) - 1) < 1e-3


def test_a_judge_without_a_policy_is_standardised_on_what_people_preferred(tmp_path, files, tiny_encoder):
    output = tmp_path / "judge"
    config = RewardConfig(model=str(tiny_encoder), data=str(files / "pairs.jsonl"), output=str(output), batch=8)
    results = train_judge(config, console="quiet")
    assert results["standardised_on"] == f"24 responses of {config.data}"
    rows = [json.loads(line) for line in (files / "pairs.jsonl").read_text().splitlines()]
    scores = Judge.load(output).score([row["prompt"] + row["chosen"] for row in rows])
    assert abs(scores.mean()) < 1e-3
    assert abs(scores.std() - 1) < 1e-3


def test_responses_to_chat_messages_are_standardised_on_as_ppo_scores_them(tmp_path, tiny_model, make_tokenizer):
    """Each model writes the messages out with its own template."""
    for name, template in (
        ("policy", "{% for m in messages %}{{ m.content }} {% endfor %}"),
        ("scorer", "{% for m in messages %}w20 {{ m.content }} w21 {% endfor %}"),
    ):
        tiny_model.save_pretrained(tmp_path / name)
        make_tokenizer(template=template).save_pretrained(tmp_path / name)
    reward = RewardModel.from_language_model(str(tmp_path / "scorer"))
    prompts = [{"prompt": [{"role": "user", "content": f"w{i}"}]} for i in range(10, 14)]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in prompts))
    rows = sampled(RewardConfig(standardise_on=str(file), standardise_rows=4), tmp_path / "policy", reward)
    assert [row[:3] for row in rows] == [[20, i, 21] for i in range(10, 14)]


def test_a_judge_reads_chat_messages_line_by_line(tiny_encoder):
    """No template stands between it and the policy: both may have another."""
    judge = Judge(load_encoder(str(tiny_encoder)), load_text_tokenizer(str(tiny_encoder)))
    prompt = [{"role": "user", "content": "w5"}]
    pairs = judge_pairs([{"prompt": prompt, "chosen": "w6", "rejected": "w7"}], judge).items
    assert pairs[0].chosen == judge.encode(["user: w5\nassistant: w6"])[0]
    assert whole_text("w5", " w6") == "w5 w6"


def test_a_judge_refuses_numbers_that_are_none(tiny_encoder):
    judge = Judge(load_encoder(str(tiny_encoder)), load_text_tokenizer(str(tiny_encoder)))
    with pytest.raises(UserError, match=r"row 1: label = 'most' must be a share in \[0, 1\]"):
        judge_pairs([{"prompt": "w5", "chosen": "w6", "rejected": "w7", "label": "most"}], judge)


@pytest.fixture
def marking_judge(tiny_encoder, make_tokenizer):
    """A judge that reads 12 tokens, of which two are its tokenizer's marks: ids 2 in front and 3 behind."""
    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = processors.BertProcessing(("assistant", 3), ("user", 2))
    return Judge(load_encoder(str(tiny_encoder)), tokenizer, token_limit=12)


def test_of_a_long_text_a_judge_reads_the_response(marking_judge):
    """It is at the end: behind a long prompt, cut from there, all responses would be one text."""
    prompt = "w5 " * 50
    texts = [whole_text(prompt, response) for response in ("w6 w7", "w8 w9 w10")]
    assert marking_judge.encode(texts) == [[2, *[5] * 8, 6, 7, 3], [2, *[5] * 7, 8, 9, 10, 3]]
    assert len(set(marking_judge.score(texts))) == 2


def test_a_text_that_fits_is_read_as_its_tokenizer_gives_it(marking_judge):
    texts = ["w6", "w5 " * 10, "w5 " * 11]
    theirs = marking_judge.tokenizer(texts)["input_ids"]
    assert [len(row) for row in theirs] == [3, 12, 13]
    assert marking_judge.encode(texts) == [*theirs[:2], theirs[2][:1] + theirs[2][2:]]


def test_a_judge_says_of_how_many_texts_it_reads_the_end(marking_judge):
    rows = [
        {"prompt": "w5 " * 20, "chosen": "w6", "rejected": "w7"},
        {"prompt": "w5", "chosen": "w6", "rejected": "w7"},
    ]
    read = judge_pairs(rows, marking_judge)
    assert (len(read.items), read.dropped) == (2, 0)
    assert read.message.startswith(
        "2 of 4 texts of the list given have 12 tokens or more, of which the judge reads the"
    )
    assert judge_pairs(rows[1:], marking_judge).message == ""


def test_a_judge_cuts_texts_at_its_encoders_context(tiny_encoder):
    judge = Judge(load_encoder(str(tiny_encoder)), load_text_tokenizer(str(tiny_encoder)), token_limit=10_000)
    context = judge.model.config.max_position_embeddings
    long = ["w6 " + "w5 " * context, "w7 " + "w5 " * context, "w5 " * context + "w6", "w5 " * context + "w7"]
    first, second, third, fourth = judge.score(long)
    assert first == second
    assert third != fourth


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_scores_that_do_not_differ_have_no_scale(tiny_encoder, reward, offset):
    """Not even where one text has other last bits in another batch."""
    judge = Judge(load_encoder(str(tiny_encoder)), load_text_tokenizer(str(tiny_encoder)), token_budget=8)
    with torch.no_grad():
        judge.head.bias.fill_(offset)
    for scorer, texts in ((judge, ["w5 w6 w7"] * 5), (judge, ["w5"]), (reward, [[5, 6, 0]] * 5)):
        with pytest.raises(UserError, match=f"gives all {len(texts)} texts the same score .*: train it longer"):
            scorer.standardise(texts)
