"""What a run leaves is what it trained: plain `generate` samples it, and that it can be saved is known beforehand."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import llama, per_word, prompts, tokenizer
from transformers import AutoModelForCausalLM, GenerationConfig, Phi3Config, Phi3ForCausalLM

from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.language.config import RewardConfig, SFTConfig
from proximo.language.models.context import context_of
from proximo.language.models.loading import load_causal_model
from proximo.language.ppo.run import run_ppo
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import PPOConfig, SharingSettings
from proximo.language.rewards.terms import FunctionReward
from proximo.language.supervised.judge import train_judge
from proximo.language.supervised.reward import train_reward
from proximo.language.supervised.sft import train_sft

ODD = {
    "eos_token_id": 0,
    "pad_token_id": 0,
    "temperature": 0.2,
    "top_p": 0.5,
    "top_k": 3,
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 6,
    "suppress_tokens": [5, 6, 7],
}
"""As published models have them; without do_sample, `transformers` refuses to write the temperature after a change."""


@pytest.fixture
def odd_folder(tiny_folder, make_tokenizer):
    """A base with such settings whose template ends turns with a token that they do not list."""
    (tiny_folder / "generation_config.json").write_text(json.dumps(ODD))
    turns = "{% for m in messages %}{{ m.role }} {{ m.content }} w60 {% endfor %}"
    made = make_tokenizer(template=turns + "{% if add_generation_prompt %}assistant {% endif %}")
    made.add_special_tokens({"extra_special_tokens": ["w60"]})
    made.save_pretrained(tiny_folder)
    return tiny_folder


def chat_rows(path, **more):
    rows = [{"prompt": [{"role": "user", "content": f"w{i}"}], **more} for i in range(4, 12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings_of(folder):
    return GenerationConfig.from_pretrained(str(folder)).to_diff_dict()


def sampled(model, tokens, steps):
    """Shares of the first tokens that plain `generate` gives."""
    torch.manual_seed(0)
    given = model.generate(torch.tensor([tokens] * 20_000), max_new_tokens=steps)[:, len(tokens)]
    return torch.bincount(given, minlength=model.config.vocab_size) / len(given)


@pytest.mark.parametrize("mode", ["full", "lora", "top_layers"])
def test_plain_generate_samples_the_policy_that_was_trained(odd_folder, ppo_config, tmp_path, mode):
    config = replace(
        ppo_config,
        prompts=chat_rows(tmp_path / "chat.jsonl"),
        responses=8,
        temperature=0.7,
        run=str(tmp_path / "run"),
        sharing=SharingSettings(mode=mode, top_layers=1),
    )
    run = run_ppo(config, mode="quiet", rewards=[FunctionReward(per_word)], preflight="off")
    seen = settings_of(run.policy)
    assert set(seen.pop("eos_token_id")) == {60, 0}
    assert seen.pop("temperature") == 0.7
    assert {name: seen.get(name) for name in ODD if name in seen} == {"top_k": 0, "top_p": 1.0, "pad_token_id": 0}
    model = load_causal_model(str(run.policy))
    assert set(model.generation_config.eos_token_id) == {60, 0}, "an adapter's own, not its base's"
    if mode == "full":
        plain = AutoModelForCausalLM.from_pretrained(run.policy).eval()
        with torch.no_grad():
            expected = (plain(torch.tensor([[2, 9, 3]])).logits[0, -1] / 0.7).softmax(-1)
        assert float((sampled(plain, [2, 9, 3], 1) - expected).abs().max()) < 0.02  # six deviations of 20,000 draws


def test_a_fine_tuned_model_samples_uncut_and_ends_where_it_was_taught_to(odd_folder, tmp_path):
    data = chat_rows(tmp_path / "rows.jsonl", response="w5 w6")
    train_sft(SFTConfig(model=str(odd_folder), data=data, output=str(tmp_path / "sft")), console="quiet")
    seen = settings_of(tmp_path / "sft")
    assert (set(seen["eos_token_id"]), seen["do_sample"], seen["top_k"]) == ({60, 0}, True, 0)
    assert not {"repetition_penalty", "suppress_tokens", "min_new_tokens", "no_repeat_ngram_size"} & set(seen)


def unsavable(monkeypatch):
    """A tokenizer that can not be written, as those with parts that only Python holds; no step may be taken with it."""

    def fail(*_, **__):
        raise TypeError("cannot pickle this part")

    def step(*_, **__):
        pytest.fail("a step was taken")

    monkeypatch.setattr("transformers.PreTrainedTokenizerFast.save_pretrained", fail)
    monkeypatch.setattr("proximo.language.supervised.steps.Optimizer.step", step)
    monkeypatch.setattr("proximo.core.updates.optimizer.FlatAdam.step", step)


@pytest.mark.parametrize("stage", ["sft", "reward", "judge", "ppo"])
def test_what_can_not_be_saved_is_told_before_the_first_step(
    stage, files, tiny_folder, tiny_encoder, ppo_config, tmp_path, monkeypatch
):
    unsavable(monkeypatch)
    out, model = str(tmp_path / "out"), str(tiny_folder)
    calls = {
        "sft": lambda: train_sft(SFTConfig(model=model, data=str(files / "sft.jsonl"), output=out), console="quiet"),
        "reward": lambda: train_reward(
            RewardConfig(model=model, data=str(files / "pairs.jsonl"), output=out), console="quiet"
        ),
        "judge": lambda: train_judge(
            RewardConfig(model=str(tiny_encoder), data=str(files / "pairs.jsonl"), output=out), console="quiet"
        ),
        "ppo": lambda: run_ppo(
            replace(ppo_config, run=out), mode="quiet", rewards=[FunctionReward(per_word)], preflight="off"
        ),
    }
    with pytest.raises(UserError, match=r"could not be saved after its training \(.*pickle this part.*\): correct"):
        calls[stage]()
    assert not (tmp_path / "out").exists(), "nothing was written"


def phi(original=16):
    torch.manual_seed(0)
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    config = Phi3Config(
        vocab_size=16,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        original_max_position_embeddings=original,
        rope_parameters=rope | {"original_max_position_embeddings": original},
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
        initializer_range=0.3,
    )
    return Phi3ForCausalLM(config).eval()


def longrope_training(limit):
    config = PPOConfig(batch=8, response_limit=limit, update=UpdateSettings(minibatch_size=4))
    return PPOTraining(config, phi(), tokenizer(), prompts([1, 2], [3, 4, 5, 6]), [FunctionReward(per_word)])


def test_longrope_models_are_trained_within_their_original_context_only():
    """Beyond it a row's states depend on the longest row beside it: sampler and trainer would be two models."""
    model = phi()
    short, long = torch.arange(1, 11).unsqueeze(0), torch.arange(24).unsqueeze(0) % 15 + 1
    with torch.no_grad():
        alone = model(short).logits
        beside = model(torch.cat([torch.nn.functional.pad(short, (0, 14), value=1), long])).logits[:1, :10]
    assert not torch.allclose(alone, beside, atol=0.1), "which is so"
    assert context_of(model) == 16
    assert context_of(llama()) == 64
    assert longrope_training(12).iterate()["sampler_gap"] < 1e-5
    with pytest.raises(UserError, match=r"reads up to 16 tokens \(of 128: beyond its original context its longrope"):
        longrope_training(13)
