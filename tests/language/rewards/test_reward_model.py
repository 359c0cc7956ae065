"""Reward models: the score is at the last token by length, pairs teach as Bradley and Terry say, folders are plain."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.language.config import RewardConfig
from proximo.language.data.dataset import Pair
from proximo.language.demo.movies import ceiling, pairs, preference, snippets
from proximo.language.models.loading import load_causal_model
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig
from proximo.language.rewards.frozen_trunk import FrozenTrunk
from proximo.language.rewards.judge import Judge
from proximo.language.rewards.preferences import bradley_terry, calibration, evaluate, preference_report, unique_texts
from proximo.language.rewards.reward_model import RewardModel, initialise_head
from proximo.language.rewards.terms import ModelReward, cut_prompts
from proximo.language.supervised import reward as stage
from proximo.language.supervised import steps as supervised
from proximo.language.supervised.judge import train_judge
from proximo.language.supervised.reward import RewardTraining, train_reward

ROWS = [[4, 0, 5, 0], [6, 0], [7, 8, 9, 10, 11, 0], [12]]  # EOS = pad = 0, within a prompt too; the last did not end
PAIRS = [
    Pair(ROWS[0], ROWS[1], 0.8),
    Pair(ROWS[0], ROWS[2], 0.6, 0.3),
    Pair(ROWS[3], ROWS[2], 1.0),
    Pair(ROWS[1], ROWS[3], 0.5),
]


@pytest.fixture
def reward(tiny_folder):
    return RewardModel.from_language_model(str(tiny_folder))


def test_the_score_is_read_at_the_last_token_whatever_stands_beside(reward):
    alone = []
    for row in ROWS:
        hidden = reward.decoder(input_ids=torch.tensor([row])).last_hidden_state
        alone.append((hidden[0, -1] @ reward.head.weight[0]).item())
    for budget in (1, 8, 1000):
        reward.token_budget = budget
        torch.testing.assert_close(reward.score(ROWS), torch.tensor(alone), rtol=1e-4, atol=1e-5)


def test_texts_are_read_with_the_own_template_and_eos_only_where_they_ended(reward):
    scores = reward.score_texts(["w4 </s>", "w12"], [" w5", " w13"], finished=[True, False])
    torch.testing.assert_close(scores, reward.score([[4, 0, 5, 0], [12, 13]]))


def test_the_gradient_of_the_loss_is_sigmoid_minus_label():
    chosen, rejected = torch.tensor([0.3, -1.0, 2.0], requires_grad=True), torch.tensor([0.1, 0.5, -30.0])
    label, margin = torch.tensor([1.0, 0.3, 0.75]), torch.tensor([0.0, 0.2, 0.0])
    loss = bradley_terry(chosen, rejected, label, margin)
    loss.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.sigmoid(chosen.detach() - rejected - margin) - label)
    assert torch.isfinite(loss).all()
    swapped = bradley_terry(rejected, chosen.detach(), 1 - label, -margin)
    torch.testing.assert_close(loss.detach(), swapped, msg="which text stands first says nothing")


@pytest.mark.parametrize("centre", [0.0, 0.1])
def test_the_cut_into_parts_changes_no_gradient_and_shared_texts_count_for_each_pair(reward, centre):
    found = []
    for budget in (1, 7, 1000):
        training = RewardTraining(RewardConfig(token_budget=budget, centre=centre), reward, PAIRS)
        reward.model.zero_grad()
        values, used = training.backward(range(len(PAIRS)))
        assert len(used) == 4, "a text of several pairs is read once"
        found.append((values["loss"], torch.cat([p.grad.flatten() for p in reward.model.parameters()])))
    reward.model.zero_grad()
    r = reward.scores(ROWS)
    c, j = r[[0, 0, 3, 1]], r[[1, 2, 2, 3]]
    loss = bradley_terry(c, j, torch.tensor([0.8, 0.6, 1.0, 0.5]), torch.tensor([0, 0.3, 0, 0])).mean()
    (loss + centre * (c + j).square().mean()).backward()
    found.append((loss.item(), torch.cat([p.grad.flatten() for p in reward.model.parameters()])))
    for value, gradient in found[:-1]:
        assert value == pytest.approx(found[-1][0], abs=1e-6)
        torch.testing.assert_close(gradient, found[-1][1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", [0.0, 1.0])
def test_frozen_layers_give_the_same_scores_and_gradients(tiny_folder, kept):
    gradients = []
    for freeze in (0, 1):
        reward = RewardModel.from_language_model(str(tiny_folder))
        training = RewardTraining(RewardConfig(kept_states=kept, freeze=freeze), reward, PAIRS, freeze=freeze)
        if freeze:
            training.trunk.remember(lambda _: None)
            assert (training.trunk.kept is not None) == (kept > 0)
        training.backward(range(len(PAIRS)))
        upper = [*reward.decoder.layers[1].parameters(), *reward.decoder.norm.parameters(), reward.head.weight]
        gradients.append(torch.cat([p.grad.flatten() for p in upper]))
        torch.testing.assert_close(training.scores(range(4)).detach(), reward.score(training.texts))
        if freeze:
            below = {name: p.clone() for name, p in reward.decoder.layers[0].named_parameters()}
            before = reward.score(ROWS)
            training.step(0.5)
            assert all(torch.equal(p, below[n]) for n, p in reward.decoder.layers[0].named_parameters())
            assert not torch.equal(reward.score(ROWS), before), "what is trained is what scores"
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "freeze", "message"),
    [
        (GPT2Config(n_embd=32, n_layer=2, n_head=4), 1, "freeze = 1, but the model has layers that Proximo does not"),
        (GPTNeoXConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), 1, "freeze = 1 needs a decoder"),
        (LlamaConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4), 2, "freeze = 2, but the model has 2"),
    ],
    ids=["gpt2", "neox", "llama"],
)
def test_layers_that_can_not_be_frozen_are_refused(tiny_tokenizer, config, freeze, message):
    config.vocab_size, config.num_labels, config.intermediate_size = 64, 1, 32
    reward = RewardModel(AutoModelForSequenceClassification.from_config(config), tiny_tokenizer)
    with pytest.raises(UserError, match=message):
        RewardTraining(RewardConfig(freeze=freeze), reward, PAIRS, freeze=freeze)


def test_a_saved_model_gives_the_same_standardised_scores_with_plain_transformers(tmp_path, reward):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        reward.head.weight.add_(0.5)  # scores far from 0
    texts = [torch.randint(4, 64, (n % 9 + 1,), generator=generator).tolist() for n in range(300)]
    texts = [[*text, 0] for text in texts]
    raw = reward.score(texts)
    said = reward.standardise(texts)
    scores = reward.score(texts)
    assert float(scores.mean()) == pytest.approx(0, abs=1e-4)
    assert float(scores.std(unbiased=False)) == pytest.approx(1, abs=1e-4)
    assert said["mean"] == pytest.approx(float(raw.mean()), abs=1e-4)
    off = scores * reward.std + reward.mean - raw
    assert float(off.std()) / said["std"] < 2 * said["shift_noise"] + 1e-3, "the remark on the shift is honest"
    reward.save(tmp_path / "rm")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "rm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rm")
    assert plain.config.num_labels == 1
    assert plain.config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    rows = ["w4 </s> w5 </s>", "w6 </s>", "w7 w8 w9 w10 w11 </s>", "w12"]
    with torch.no_grad():
        theirs = plain(**tokenizer(rows, padding=True, return_tensors="pt")).logits[:, 0]
    torch.testing.assert_close(theirs, reward.score(ROWS), rtol=1e-4, atol=1e-5)
    again = RewardModel.load(str(tmp_path / "rm"))
    assert torch.equal(again.score(ROWS), reward.score(ROWS))
    assert (again.mean, again.std) == (reward.mean, reward.std)


def test_a_tokenizer_with_no_other_special_token_gets_a_padding_of_its_own(tmp_path, tiny_model, tiny_tokenizer):
    tiny_tokenizer.unk_token = None
    tiny_model.save_pretrained(tmp_path / "m")
    tiny_tokenizer.save_pretrained(tmp_path / "m")
    reward = RewardModel.from_language_model(str(tmp_path / "m"))
    assert reward.tokenizer.pad_token_id not in (None, reward.tokenizer.eos_token_id)
    assert reward.model.get_input_embeddings().num_embeddings > reward.tokenizer.pad_token_id
    assert reward.score(ROWS).isfinite().all()


@pytest.mark.parametrize("pad", ["</s>", "w60"])
def test_padding_is_never_what_a_chat_template_ends_with(tmp_path, tiny_model, make_tokenizer, pad):
    """Plain `transformers` reads the score before padding: it would read it before the end."""
    tokenizer = make_tokenizer(pad=pad, template="{% for m in messages %}{{ m.content }} w60 {% endfor %}")
    tokenizer.unk_token = None
    tokenizer.add_special_tokens({"extra_special_tokens": ["w60", "w61"]})
    tiny_model.save_pretrained(tmp_path / "m")
    tokenizer.save_pretrained(tmp_path / "m")
    reward = RewardModel.from_language_model(str(tmp_path / "m"))
    assert reward.tokens([{"role": "user", "content": "w4"}], "w5")[-1] == 60
    assert reward.tokenizer.pad_token_id == 61


def test_the_head_starts_as_n_of_one_over_root_d_plus_one():
    head = torch.nn.Linear(99_999, 1)
    initialise_head(head, torch.Generator().manual_seed(0))
    assert float(head.weight.detach().std()) * 100_000**0.5 == pytest.approx(1, abs=0.01)
    assert float(head.bias.detach()) == 0


def test_fewer_layers_are_the_lowest_ones(tiny_folder, tiny_model):
    reward = RewardModel.from_language_model(str(tiny_folder), layers=1)
    assert len(reward.decoder.layers) == 1
    mine, theirs = reward.decoder.layers[0].state_dict(), tiny_model.model.layers[0].state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    with pytest.raises(UserError, match=r"layers = 3, but .* has 2"):
        RewardModel.from_language_model(str(tiny_folder), layers=3)


def test_what_is_no_reward_model_and_what_is_too_long(tiny_folder, reward):
    with pytest.raises(UserError, match="holds a LlamaForCausalLM, not a reward model"):
        RewardModel.load(str(tiny_folder))
    with pytest.raises(UserError, match="text 1 has 65 tokens, but the reward model's context is 64"):
        reward.score([[4], [4] * 65])
    with pytest.raises(UserError, match="text 0 for the reward model has no token"):
        reward.score([[]])
    with torch.no_grad():
        reward.head.weight.zero_()
    with pytest.raises(UserError, match="gives all 4 texts the same score"):
        reward.standardise(ROWS)


def spelling(context):
    """A reward model that reads letter by letter, BOS first."""
    names = {x: i for i, x in enumerate(["</s>", "<s>", "<unk>", " ", "w", *"0123456789"])}
    inner = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A $B", [("<s>", 1)])
    own = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(**size, vocab_size=16, max_position_embeddings=context, num_labels=1, pad_token_id=2)
    return RewardModel(AutoModelForSequenceClassification.from_config(config).eval(), own)


def test_of_a_prompt_that_does_not_fit_the_end_is_read_and_the_whole_response():
    scorer = spelling(context=12)
    letters = {name: i for name, i in scorer.tokenizer.get_vocab().items() if len(name) == 1}

    def ids(text):
        return [letters[x] for x in text]

    assert scorer.tokens("w12", " w34") == [1, *ids("w12 w34"), 0]
    assert scorer.tokens("w12 w56", " w34") == [1, *ids("12 w56 w34"), 0]
    assert scorer.tokens("w12 w56", " w3456 w789", finished=False) == [1, *ids(" w3456 w789")]
    assert scorer.tokens("w12 w56", " w34567 w789", finished=False) == ids(" w34567 w789")
    with pytest.raises(UserError, match=r"response ' w34567 w789' has 13 of the reward .*, its context is 12: lower"):
        scorer.tokens("w12", " w34567 w789")
    cut = scorer.score_texts(["w12 w56", "w1"], [" w34", " w2"])
    torch.testing.assert_close(cut, scorer.score([scorer.tokens("w12 w56", " w34"), scorer.tokens("w1", " w2")]))
    assert scorer.cut_share == 0.5
    assert cut_prompts([ModelReward(scorer, name="r")]) == ["reward r read only the end of 50% of the prompts"]


def test_a_run_goes_on_where_a_response_has_more_of_the_reward_models_tokens_than_of_the_policys():
    """A prompt of 3 tokens, EOS and 3 more would fit, but three words have up to 11 letters."""
    config = PPOConfig(batch=8, response_limit=3, update=UpdateSettings(minibatch_size=4))
    seen = []
    for context in (64, 11):
        terms = [ModelReward(spelling(context), name="r")]
        seen.append(PPOTraining(config, tiny.llama(), tiny.tokenizer(), tiny.prompts([3]), terms).iterate())
    assert "reward_cut/r" not in seen[0]
    assert 0 < seen[1]["reward_cut/r"] < 1


def damaged(folder, change):
    """The folder with its weights by name passed through `change`."""
    weights = folder / "model.safetensors"
    save_file(change(load_file(weights)), weights, metadata={"format": "pt"})
    return str(folder)


def test_a_reward_model_without_its_head_is_refused_instead_of_given_a_random_one(tmp_path, reward):
    reward.save(tmp_path / "rm")
    damaged(tmp_path / "rm", lambda w: {name: x for name, x in w.items() if name != "score.weight"})
    with pytest.raises(UserError, match=r"rm lacks score.weight, which would be random"):
        RewardModel.load(str(tmp_path / "rm"))


def test_a_reward_model_with_a_bias_is_refused_instead_of_losing_it(tmp_path, reward):
    reward.save(tmp_path / "rm")
    damaged(tmp_path / "rm", lambda w: w | {"score.bias": torch.tensor([3.0])})
    with pytest.raises(UserError, match=r"rm holds score.bias, which its architecture has no place for"):
        RewardModel.load(str(tmp_path / "rm"))


def test_a_language_model_that_lacks_weights_is_refused(tiny_folder):
    norm = "model.layers.1.input_layernorm.weight"
    folder = damaged(tiny_folder, lambda w: {name: x for name, x in w.items() if name != norm})
    for load in (load_causal_model, RewardModel.from_language_model):
        with pytest.raises(UserError, match=rf"tiny lacks {norm}, which would be random"):
            load(folder)
    damaged(tiny_folder, lambda w: {name: x for name, x in w.items() if not name.startswith("model.layers.1.")})
    with pytest.raises(UserError, match=r"lacks model.layers.1.* and 6 more, which would be random"):
        load_causal_model(folder)
    RewardModel.from_language_model(folder, layers=1)


def test_a_head_that_is_tied_to_the_embedding_is_not_missing(tiny_folder, tiny_model):
    with pytest.raises(UserError, match=r"tiny lacks lm_head.weight, which would be random"):
        load_causal_model(damaged(tiny_folder, lambda w: {n: x for n, x in w.items() if n != "lm_head.weight"}))
    config = tiny_folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tie_word_embeddings": True}))
    model = load_causal_model(str(tiny_folder))
    assert torch.equal(model.lm_head.weight, tiny_model.model.embed_tokens.weight)


def test_the_report_counts_what_people_preferred():
    rows = [Pair([1], [2], 0.9, source="a", difference=2.5), Pair([1], [2], 0.4, source="a", difference=0.2)]
    rows += [Pair([1], [2], 0.5, source="b", difference=0.1), Pair([1], [2], 1.0, source="b", difference=1.5)]
    report = preference_report(rows, torch.tensor([1.0, 1.0, 0.0, 2.0]), torch.tensor([0.0, 0.0, 1.0, 2.0]))
    assert report["accuracy"] == pytest.approx((1 + 0 + 0.5) / 3), "even odds are left out, a tie is one half"
    assert report["accuracy/difference>1"] == pytest.approx(0.75)
    assert (report["accuracy/source/a"], report["accuracy/source/b"]) == (0.5, 0.5)
    assert "accuracy/difference 0.5-1" not in report, "no pair is so far apart"
    even = preference_report([Pair([1], [2], 0.5, source="a")], torch.tensor([1.0]), torch.tensor([0.0]))
    assert not [name for name in even if name.startswith("accuracy")]
    json.dumps(even, allow_nan=False)


def test_scores_that_are_the_true_log_odds_are_calibrated():
    generator = np.random.default_rng(0)
    p = generator.uniform(0.02, 0.98, 50_000)
    curve = calibration(p, (generator.uniform(size=p.size) < p).astype(float))
    assert len(curve) == 10
    assert all(abs(b["predicted"] - b["label"]) < 0.02 for b in curve)


def test_a_training_learns_who_is_preferred(tmp_path, tiny_folder):
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "w4", "chosen": f"w5 w{i}", "rejected": f"w6 w{i}", "label": 0.9} for i in range(10, 26)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RewardConfig(
        str(tiny_folder),
        str(data),
        str(data),
        output=str(tmp_path / "rm"),
        batch=8,
        epochs=15,
        learning_rate=3e-3,
        layers=2,
        freeze=1,
    )
    result = train_reward(config, console="quiet", human_ceiling={"all": 0.95})
    assert result["accuracy"] == 1.0
    assert result["human/all"] == 0.95
    assert result["loss"] < 0.36, "the entropy of odds of 9:1 is 0.325 nats"
    loaded = RewardModel.load(config.output)
    scores = loaded.score_texts(["w4"] * 32, [f"w{k} w{i}" for i in range(10, 26) for k in (5, 6)])
    gap = (scores[0::2] - scores[1::2]).mean() * loaded.std
    assert float(torch.sigmoid(gap)) == pytest.approx(0.9, abs=0.06), "a soft label is a probability"


def test_the_frozen_layers_states_are_no_training_time(tmp_path, tiny_folder, monkeypatch):
    data = tmp_path / "pairs.jsonl"
    data.write_text('{"prompt": "w4", "chosen": "w5", "rejected": "w6"}\n' * 8)
    config = RewardConfig(str(tiny_folder), str(data), output=str(tmp_path / "rm"), batch=8, freeze=1)
    states, passed = FrozenTrunk._all_states, [0.0]

    def clock():  # a thousandth of a second at each look; the states take an hour
        passed[0] += 0.001
        return passed[0]

    def an_hour(self):
        passed[0] += 3600.0
        return states(self)

    monkeypatch.setattr(supervised, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(FrozenTrunk, "_all_states", an_hour)
    assert train_reward(config, console="quiet")["seconds"] < 1.0
    assert passed[0] > 3600.0


def test_looks_at_held_out_pairs_are_no_training_time(tmp_path, tiny_folder, monkeypatch):
    data, passed, looks = tmp_path / "pairs.jsonl", [0.0], []
    data.write_text('{"prompt": "w4", "chosen": "w5", "rejected": "w6"}\n' * 8)
    config = RewardConfig(str(tiny_folder), str(data), str(data), output=str(tmp_path / "rm"), batch=4, epochs=4)

    def clock():
        passed[0] += 0.001
        return passed[0]

    def an_hour(*arguments, **options):
        passed[0] += 3600.0
        looks.append(arguments)
        return evaluate(*arguments, **options)

    monkeypatch.setattr(supervised, "time", SimpleNamespace(perf_counter=clock))
    monkeypatch.setattr(stage, "evaluate", an_hour)
    told = train_reward(replace(config, minutes=30.0), console="quiet")
    assert "cut_by_clock" not in told
    assert (told["steps"], len(looks)) == (8, 4), "three looks between the epochs, one at the end"


def test_a_judge_is_another_architecture_and_comes_back_as_saved(tmp_path, make_tokenizer):
    torch.manual_seed(0)
    size = dict(vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    BertModel(BertConfig(**size)).save_pretrained(tmp_path / "encoder")
    make_tokenizer().save_pretrained(tmp_path / "encoder")
    data = tmp_path / "pairs.jsonl"
    rows = [{"prompt": "w4", "chosen": f" w5 w{i}" + " w9" * (i % 5), "rejected": f" w6 w{i}"} for i in range(10, 40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RewardConfig(
        str(tmp_path / "encoder"),
        str(data),
        str(data),
        output=str(tmp_path / "judge"),
        batch=8,
        epochs=20,
        learning_rate=3e-3,
    )
    result = train_judge(config, console="quiet")
    assert result["accuracy"] == 1.0
    judge = Judge.load(tmp_path / "judge")
    assert judge.token_limit == config.token_limit
    texts = [row["prompt"] + row["chosen"] for row in rows]
    scores = judge.score(texts)
    assert scores.mean() == pytest.approx(0, abs=1e-4)
    assert scores.std() == pytest.approx(1, abs=1e-4)
    alone = np.concatenate([judge.score([text]) for text in texts])
    np.testing.assert_allclose(scores, alone, rtol=1e-4, atol=1e-4)


RATED = [(f"text {i}", [i % 9 - 4, i % 9 - 4, (i * 7) % 9 - 4, 1, 0]) for i in range(2000)]


def test_movie_texts_are_split_once_and_for_all_and_raters_into_disjoint_halves():
    parts, again = snippets(RATED), snippets(RATED[::-1])
    for name, part in parts.items():
        assert [s.text for s in part] == [s.text for s in again[name]], "the file's order says nothing"
    shares = {name: len(part) / len(RATED) for name, part in parts.items()}
    assert shares == {
        "train": pytest.approx(0.8, abs=0.03),
        "validation": pytest.approx(0.1, abs=0.03),
        "test": pytest.approx(0.1, abs=0.03),
    }
    assert len({s.text for part in parts.values() for s in part}) == len(RATED)
    rated = dict(RATED)
    for snippet in parts["train"]:
        assert sorted(snippet.ratings_a + snippet.ratings_b) == sorted(rated[snippet.text])
        assert abs(len(snippet.ratings_a) - len(snippet.ratings_b)) <= 1


def test_preference_is_the_chance_that_one_rating_beats_another():
    assert preference([2, 3], [1, 3]) == pytest.approx((1 + 0 + 1 + 0.5) / 4)
    assert preference([1, 2], [4]) + preference([4], [1, 2]) == 1.0


def test_movie_pairs_follow_the_ratings_and_share_texts():
    part = snippets(RATED)["train"]
    rows = list(pairs(part, "a", 200))
    means = {" " + s.text: np.mean(s.ratings_a) for s in part}
    for row in rows:
        assert row["difference"] == pytest.approx(means[row["chosen"]] - means[row["rejected"]], abs=1e-3)
        assert row["difference"] > 0
    first = [row for row in rows if row["chosen"] in {" " + s.text for s in part[:32]}]
    assert len(first) > 150
    assert len({row[side] for row in first for side in ("chosen", "rejected")}) <= 32
    assert 0.5 < ceiling(part)["all"] <= ceiling(part)["difference>1"] <= 1.0


def of_row(i):
    """A pair whose chosen text says which it is."""
    return Pair([4 + i, 0], [30 + i, 0])


def test_pairs_with_texts_of_their_own_are_shuffled_one_by_one(reward):
    """A file may be sorted, by topic say: a step is to see all of it."""
    training = RewardTraining(RewardConfig(batch=4), reward, [of_row(i) for i in range(20)])
    batches = [next(training.batches) for _ in range(10)]
    for epoch in (batches[:5], batches[5:]):
        assert sorted(i for batch in epoch for i in batch) == list(range(20))
    assert sum(max(batch) - min(batch) > 3 for batch in batches) >= 8


def test_pairs_that_share_texts_are_taken_as_neighbours(reward):
    """As in the movie reviews: a step on 256 pairs reads 32 texts."""
    training = RewardTraining(RewardConfig(batch=4), reward, [of_row(i // 4) for i in range(20)])
    batches = [next(training.batches) for _ in range(5)]
    assert sorted(batches) == [list(range(i, i + 4)) for i in range(0, 20, 4)]


def test_the_accuracy_of_a_batch_leaves_out_pairs_at_even_odds(reward):
    high, low = sorted(ROWS[:2], key=lambda row: -float(reward.score([row])))
    right, wrong, even = Pair(high, low, 0.9), Pair(high, low, 0.2), Pair(high, low, 0.5)
    for pairs_, accuracy in (
        ([right, even, even], 1.0),
        ([wrong, even], 0.0),
        ([right, wrong], 0.5),
        ([Pair(high, high, 1.0)], 0.5),
        ([right, right, wrong, even], pytest.approx(2 / 3)),
    ):
        training = RewardTraining(RewardConfig(), reward, pairs_)
        assert training.backward(range(len(pairs_)))[0]["accuracy"] == accuracy
    assert "accuracy" not in RewardTraining(RewardConfig(), reward, [even]).backward([0])[0]


def test_unique_texts_point_back_to_the_pairs():
    texts, chosen, rejected = unique_texts(PAIRS)
    assert len(texts) == 4
    assert [(texts[c], texts[r]) for c, r in zip(chosen, rejected, strict=True)] == [
        (p.chosen, p.rejected) for p in PAIRS
    ]


def test_evaluation_reads_each_text_once(reward):
    seen = []
    score = reward.score
    reward.score = lambda rows: seen.extend(rows) or score(rows)
    evaluate(reward, PAIRS)
    assert len(seen) == 4


def test_standardised_twice_still_leads_back_to_the_scale_of_the_training(reward):
    with torch.no_grad():  # a head with bias takes the shift exactly
        reward.head.bias = torch.nn.Parameter(torch.tensor([0.7]))
    raw = reward.score(ROWS)
    reward.standardise(ROWS[:3])
    reward.standardise(ROWS[1:])
    torch.testing.assert_close(reward.score(ROWS) * reward.std + reward.mean, raw, rtol=1e-4, atol=1e-4)
