"""SFT: the loss is that of `transformers` on response tokens, and how a step is cut into parts changes nothing."""

import json
import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from proximo.errors import UserError
from proximo.language.config import RewardConfig, SFTConfig
from proximo.language.data.dataset import Example
from proximo.language.models.dropout import without_dropout
from proximo.language.models.loading import load_causal_model, load_tokenizer
from proximo.language.supervised.judge import train_judge
from proximo.language.supervised.reward import train_reward
from proximo.language.supervised.sft import SFTTraining, train_sft
from proximo.language.supervised.steps import learning_rate_factor
from proximo.runs.storage.metrics import read_metrics

EXAMPLES = [Example([4, 0, 5], [6, 7, 8, 0]), Example([9], [10, 0]), Example([11, 12, 13, 14], [15, 16, 17, 18, 19, 0])]


def training(model, tokenizer, **settings):
    return SFTTraining(SFTConfig(**settings), model, tokenizer, EXAMPLES)


def test_the_loss_is_the_cross_entropy_of_response_tokens(tiny_model, tiny_tokenizer):
    expected = []
    for e in EXAMPLES:  # one by one, unpadded; pad = EOS = 0 and a prompt with an EOS
        logits = tiny_model(torch.tensor([e.prompt + e.response])).logits[0, len(e.prompt) - 1 : -1]
        expected.append(torch.nn.functional.cross_entropy(logits, torch.tensor(e.response), reduction="none"))
    loss = training(tiny_model, tiny_tokenizer).mean_loss(EXAMPLES)
    assert loss == pytest.approx(float(torch.cat(expected).detach().mean()), abs=1e-5)


def test_the_cut_into_micro_batches_changes_neither_loss_nor_gradient(tiny_model, tiny_tokenizer):
    found = []
    for budget in (1, 12, 1000):
        tiny_model.zero_grad()
        loss = training(tiny_model, tiny_tokenizer, token_budget=budget).backward(EXAMPLES)
        found.append((loss, torch.cat([p.grad.flatten() for p in tiny_model.parameters()])))
    for loss, gradient in found[1:]:
        assert loss == pytest.approx(found[0][0], abs=1e-5)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-4, atol=1e-6)


def test_frozen_layers_stay_and_the_others_move(tiny_model, tiny_tokenizer):
    before = {name: p.clone() for name, p in tiny_model.named_parameters()}
    trained = training(tiny_model, tiny_tokenizer, freeze=1, batch=3, learning_rate=1e-2)
    trained.step(0.5)
    moved = {name for name, p in tiny_model.named_parameters() if not torch.equal(p, before[name])}
    assert any("layers.1." in name for name in moved)
    assert not any("layers.0." in name or "embed" in name for name in moved)
    with pytest.raises(UserError, match="freeze = 2, but the model has 2 layers"):
        training(tiny_model, tiny_tokenizer, freeze=2)


def test_a_training_learns_and_leaves_a_plain_folder(tmp_path, tiny_folder):
    data = tmp_path / "rows.jsonl"
    data.write_text('{"prompt": "w4 w5", "response": "w6 w7"}\n' * 8)
    config = SFTConfig(
        str(tiny_folder), str(data), str(data), str(tmp_path / "out"), batch=4, epochs=8, learning_rate=1e-2
    )
    result = train_sft(config, console="quiet")
    assert result["validation_loss"] < 0.5 * result["validation_loss_before"]
    mine = load_causal_model(config.output)
    plain = AutoModelForCausalLM.from_pretrained(config.output)
    tokens = torch.tensor([[4, 5, 6, 7, 0]])
    assert torch.equal(mine(tokens).logits, plain(tokens).logits)
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(result["steps"] + 1))
    # The same settings give the same model, and a second training into the folder starts its metrics anew.
    first = {name: p.clone() for name, p in mine.named_parameters()}
    assert train_sft(config, console="quiet")["validation_loss"] == result["validation_loss"]
    again = load_causal_model(config.output)
    assert all(torch.equal(p, first[name]) for name, p in again.named_parameters())
    assert len(read_metrics(tmp_path / "out" / "metrics.jsonl")) == len(rows)
    assert not list((tmp_path / "out").glob(".*")), "no temporary file is left"


def test_a_loss_that_is_not_finite_keeps_its_batch(tmp_path, tiny_model, tiny_tokenizer):
    with torch.no_grad():
        tiny_model.lm_head.weight[6] = float("nan")
    with pytest.raises(UserError, match=r"step 1 has loss nan.*failed_batch.jsonl"):
        training(tiny_model, tiny_tokenizer, output=str(tmp_path)).step(0.5)
    texts = [json.loads(line)["text"] for line in (tmp_path / "failed_batch.jsonl").read_text().splitlines()]
    assert sorted(texts)[-1] == "w9 w10 </s>"


def test_step_sizes():
    assert [learning_rate_factor(x, 0.1, "linear") for x in (0.0, 0.05, 0.1, 0.55, 1.0)] == [
        0,
        0.5,
        1,
        pytest.approx(0.5),
        0,
    ]
    assert learning_rate_factor(0.55, 0.1, "cosine") == pytest.approx(0.5)
    assert learning_rate_factor(1.0, 0.1, "cosine") == pytest.approx(0.0)
    assert learning_rate_factor(1.0, 0.1, "constant") == 1.0


def test_dropout_is_taken_out(tiny_model):
    tiny_model.model.layers[0].self_attn.attention_dropout = 0.5
    tiny_model.model.layers[1].mlp.act_fn = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.Dropout(0.5))
    tokens = torch.arange(10).unsqueeze(0)
    without_dropout(tiny_model).train()
    assert torch.equal(tiny_model(tokens).logits, tiny_model(tokens).logits)


def test_folders_that_can_not_be_loaded(tmp_path, tiny_folder):
    with pytest.raises(UserError, match="holds no model"):
        load_causal_model(str(tmp_path))
    with pytest.raises(UserError, match="there is no model builtin:smollm: use smollm2 after builtin:"):
        load_causal_model("builtin:smollm")
    with pytest.raises(UserError, match="cannot load the model no/where, which is no folder here"):
        load_causal_model("no/where")
    for name in ("runs/x/sft", "./sft", str(tmp_path / "gone")):  # no name on the hub is like these: nobody is asked
        with pytest.raises(UserError, match=f"there is no folder {name}: check the path, which counts from"):
            load_causal_model(name)
    weights = tiny_folder / "model.safetensors"
    torch.save({}, tiny_folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match="loaded from safetensors only"):
        load_causal_model(str(tiny_folder))


def test_a_tokenizer_without_eos_is_refused(tmp_path, make_tokenizer, tiny_model):
    tiny_model.save_pretrained(tmp_path)
    make_tokenizer(eos=False).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="has no EOS token"):
        load_tokenizer(str(tmp_path))


def test_settings_that_can_not_mean_anything():
    for change in ({"batch": 0}, {"warmup": 1.0}, {"epochs": 0}, {"token_limit": 1}, {"freeze": -1}):
        with pytest.raises(ValueError, match=f"{next(iter(change))} = "):
            replace(SFTConfig(), **change)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (SFTConfig, "learning_rate"),
        (SFTConfig, "epochs"),
        (SFTConfig, "weight_decay"),
        (RewardConfig, "head_learning_rate"),
        (RewardConfig, "centre"),
        (RewardConfig, "temperature"),
    ],
)
def test_numbers_that_are_none_are_refused(kind, name, value):
    with pytest.raises(ValueError, match=f"{name} = {value} must be .* finite"):
        kind(**{name: value})


def test_a_training_without_data_says_so_before_it_loads_a_model(tmp_path):
    for train, kind in ((train_sft, SFTConfig), (train_reward, RewardConfig), (train_judge, RewardConfig)):
        with pytest.raises(UserError, match=r"no data is named: give --data \(in Python data="):
            train(kind(model="gone/away", output=str(tmp_path / "out")), console="quiet")
    assert not (tmp_path / "out").exists()
