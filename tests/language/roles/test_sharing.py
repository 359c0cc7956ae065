"""Every way of sharing weights: the reference is the starting model exactly, and an export is what was trained."""

import json
from dataclasses import replace

import pytest
import torch
from language_runs import MODES, PROMPTS, training
from peft import PeftModel
from tiny import llama, prompts, tokenizer
from transformers import AutoModelForCausalLM, AutoModelForTokenClassification, GPT2Config, GPT2LMHeadModel

from proximo.errors import UserError
from proximo.language.models.decoder import split_decoder
from proximo.language.models.folders import save_folder
from proximo.language.models.loading import load_causal_model, new_sequence_classifier
from proximo.language.ppo.policy import response_positions
from proximo.language.ppo_config import SharingSettings
from proximo.language.roles.critic import critic_model, save_critic
from proximo.language.roles.sharing import make_roles
from proximo.language.sampling.texts import to_batch


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_divergence_from_the_reference_is_exactly_0_at_step_0_and_not_after(sharing):
    run = training(sharing)
    batch = run.estimate(run.collect())
    log_prob, _ = run.policy.scored(batch)
    assert torch.equal(log_prob, run.policy.reference_log_probs(batch))
    run.iterate()
    log_prob, _ = run.policy.scored(batch)
    assert not torch.allclose(log_prob, run.policy.reference_log_probs(batch), atol=1e-4)


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_the_reference_stays_the_starting_model(sharing):
    """After training, the reference's log-probs are those of a model that nobody trained."""
    run, untouched = training(sharing), llama()
    for _ in range(3):
        batch = run.estimate(run.collect())
        run.iterate()
    fresh = training(SharingSettings(mode="full"), untouched)
    plain = replace(batch, inputs={k: v for k, v in batch.inputs.items() if k != "states"})
    torch.testing.assert_close(
        run.policy.reference_log_probs(batch), fresh.policy.reference_log_probs(plain), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_an_exported_policy_gives_the_logits_of_the_trained_one(sharing, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "policy"
    save_folder(base, llama(), tokenizer())
    model = AutoModelForCausalLM.from_pretrained(base).eval()
    run = training(sharing, model)
    run.iterate()
    save_folder(folder, run.roles, run.tokenizer)
    if sharing.mode == "lora":
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    again = load_causal_model(str(folder))
    tokens = torch.tensor([[3, 5, 2, 9]])
    with torch.no_grad():
        hidden, _ = run.roles.policy(tokens)
        mine = run.roles.head(hidden)
        start = AutoModelForCausalLM.from_pretrained(base)(input_ids=tokens).logits
        theirs = again(input_ids=tokens).logits
    # A merged adapter adds in another order.
    torch.testing.assert_close(theirs, mine, rtol=1e-4, atol=1e-5 if sharing.mode == "lora" else 1e-6)
    assert not torch.allclose(theirs, start, atol=1e-3)


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_an_exported_critic_gives_the_values_of_the_trained_one(sharing, tmp_path):
    run = training(sharing)
    batch = run.estimate(run.collect())
    _, start = run.policy.scored(batch)
    run.iterate()
    _, mine = run.policy.scored(batch)
    save_critic(tmp_path / "critic", run.roles, run.tokenizer)
    again = AutoModelForTokenClassification.from_pretrained(tmp_path / "critic").eval()
    rows, steps, columns = response_positions(batch)
    with torch.no_grad():
        logits = again(input_ids=batch.inputs["tokens"]).logits
    assert logits.shape[-1] == 1
    torch.testing.assert_close(logits[rows, columns, 0], mine[rows, steps], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mine, start, atol=1e-3)


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_only_the_roles_own_weights_are_trained(sharing):
    run = training(sharing)
    before = {name: p.clone() for name, p in run.roles.named_parameters()}
    for _ in range(2):
        run.iterate()
    moved = {name for name, p in run.roles.named_parameters() if not torch.equal(p, before[name])}
    expected = {
        "full": ("model.", "value_head.", "critic."),
        "lora": ("lora_", "value_head."),
        "top_layers": ("top.", "critic_top.", "value_head."),
    }[sharing.mode]
    assert moved
    assert all(any(part in name for part in expected) for name in moved), moved
    assert not any("reference" in name for name in moved)
    assert any("value_head" in name for name in moved)
    if sharing.critic == "separate":
        assert any("critic" in name for name in moved)


def gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


def test_a_decoder_that_adds_positions_can_not_be_cut():
    with pytest.raises(UserError, match=r"set sharing\.mode to lora or full"):
        split_decoder(gpt2().get_decoder(), 1)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_adapters_on_layers_that_lie_the_other_way(critic):
    """GPT-2's Conv1D: after training, the sampler and the exported critic have the adapters in them."""
    run = training(SharingSettings(mode="lora", critic=critic, lora_rank=4), gpt2(), old_log_probs="rescore")
    for _ in range(3):
        run.iterate()
    samples = run.sample([p.tokens for p in prompts(*PROMPTS)])
    batch = to_batch(prompts(*PROMPTS), samples)
    mine, values = run.policy.scored(batch)
    assert not torch.allclose(mine, run.policy.reference_log_probs(batch), atol=1e-3)
    torch.testing.assert_close(samples.log_probs, mine, rtol=1e-4, atol=1e-5)
    rows, steps, columns = response_positions(batch)
    with torch.no_grad():
        logits = critic_model(run.roles)(input_ids=batch.inputs["tokens"]).logits
    torch.testing.assert_close(logits[rows, columns, 0], values[rows, steps], rtol=1e-4, atol=1e-5)


def drawn(seed, stream):
    """The A of each adapter, policy's and critic's, while torch's global stream stands at `stream`."""
    model, settings = llama(), SharingSettings(mode="lora", critic="separate", lora_rank=8)
    torch.manual_seed(stream)
    roles = make_roles(model, settings, seed=seed)
    return {name: p.detach() for name, p in roles.named_parameters() if "lora_A" in name}


def test_adapters_follow_from_the_seed_alone_whatever_another_thread_draws():
    first, again, other = drawn(7, 0), drawn(7, 1), drawn(8, 0)
    assert all(torch.equal(x, again[name]) and not torch.equal(x, other[name]) for name, x in first.items())
    numbers = torch.cat([(x * x.shape[1] ** 0.5).flatten() for x in first.values()])
    assert numbers.abs().max() <= 1.0
    # Uniform on [-1, 1]: mean 0 and variance 1/3, of about 2,000 numbers or more, hence within 0.05 by far.
    assert len(numbers) > 2000
    assert abs(numbers.mean()) < 0.05
    assert abs(numbers.var() - 1 / 3) < 0.05
    assert len({float(x.flatten()[0]) for x in first.values()}) == len(first)  # no two from the same numbers


def test_a_critic_from_a_shorter_reward_model_is_exported():
    sharing = SharingSettings(mode="full", critic="separate", critic_from="reward")
    roles = make_roles(llama(), sharing, llama(vocabulary=17, layers=2, seed=1).get_decoder())
    torch.nn.init.ones_(roles.value_head.weight)
    tokens = torch.tensor([[3, 5, 2]])
    with torch.no_grad():
        mine = roles.value_head(roles.critic_hidden(tokens, None))
        torch.testing.assert_close(critic_model(roles)(input_ids=tokens).logits, mine)


def test_adapters_are_merged_in_the_weights_own_type():
    run = training(MODES[2], compute="bfloat16", old_log_probs="rescore")
    run.iterate()
    with run.policy.computing(), run.roles.as_sampler() as stack:
        assert {p.dtype for p in stack.parts[0].parameters()} == {torch.float32}


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_in_bfloat16_the_policy_that_learns_is_the_one_that_acted_in_every_iteration(sharing):
    """Once adapters have moved, weights that they are merged into round otherwise than their parts do."""
    run = training(sharing, llama(width=64, layers=4), compute="bfloat16", learning_rate=3e-2)
    if sharing.mode == "lora":
        assert run.sampler_log_probs is False
    for _ in range(4):
        values = run.iterate()
        assert values["ratio_deviation"] < 0.1


@pytest.mark.parametrize("layers", [3, 4])
def test_top_layers_must_leave_a_trunk(layers):
    with pytest.raises(UserError, match=rf"top_layers = {layers} must be between 1 and 2"):
        make_roles(llama(), SharingSettings(mode="top_layers", top_layers=layers))


def test_a_critic_from_the_reward_model_needs_one():
    with pytest.raises(UserError, match="critic_from = reward needs"):
        make_roles(llama(), SharingSettings(mode="full", critic="separate", critic_from="reward"))


def test_a_critic_from_a_reward_model_of_another_width_is_refused():
    settings = SharingSettings(mode="full", critic="separate", critic_from="reward")
    with pytest.raises(UserError, match="states have 64 numbers and the policy's 32"):
        make_roles(llama(), settings, llama(width=64).get_decoder())


def test_batches_of_a_shared_trunk_carry_its_states():
    run = training(MODES[4])
    batch = run.estimate(run.collect())
    _, states = run.roles.policy(batch.inputs["tokens"])
    for row in range(len(batch)):
        read = int(batch.inputs["prompt_lengths"][row] + (batch.weight[row] > 0).sum() - 1)
        torch.testing.assert_close(batch.inputs["states"][row, :read], states[row, :read], rtol=1e-4, atol=1e-5)


def test_adapters_are_read_from_safetensors_only(tmp_path, tiny_folder, tiny_tokenizer):
    run = training(MODES[2], model=AutoModelForCausalLM.from_pretrained(tiny_folder))
    run.roles.model.config._name_or_path = str(tiny_folder)
    save_folder(tmp_path / "policy", run.roles, tiny_tokenizer)
    config = tmp_path / "policy" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": str(tiny_folder)}))
    load_causal_model(str(tmp_path / "policy"))
    weights = tmp_path / "policy" / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"cannot load the adapter .*policy"):
        load_causal_model(str(tmp_path / "policy"))
    weights.unlink()
    torch.save({}, tmp_path / "policy" / "adapter_model.bin")
    with pytest.raises(UserError, match=r"no adapter_model.safetensors.*safetensors only"):
        load_causal_model(str(tmp_path / "policy"))


TOKENS = torch.tensor([[3, 5, 2, 9]])


@pytest.fixture
def adapter(tmp_path):
    """A policy that PPO exported as an adapter on a base, and the logits that it gives on `TOKENS`."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    save_folder(base, llama(), tokenizer())
    run = training(MODES[2], load_causal_model(str(base)))
    run.iterate()
    save_folder(folder, run.roles, run.tokenizer)
    with torch.no_grad():
        plain = load_causal_model(str(base))(input_ids=TOKENS).logits
        adapted = PeftModel.from_pretrained(load_causal_model(str(base)), str(folder))(input_ids=TOKENS).logits
    assert not torch.allclose(adapted, plain, atol=1e-2)
    return folder, adapted


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_a_policy_that_is_an_adapter_is_where_training_starts_and_what_it_is_held_to(sharing, adapter, tmp_path):
    """Policy and reference begin with the adapter, and the export is what was trained, as `transformers` loads it."""
    folder, adapted = adapter
    run = training(sharing, load_causal_model(str(folder)))
    with torch.no_grad():
        policy = run.roles.head(run.roles.policy(TOKENS)[0])
        with run.roles.as_reference() as stack:
            reference = run.roles.reference_head(stack(TOKENS)[0])
    torch.testing.assert_close(policy, adapted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reference, adapted, rtol=1e-4, atol=1e-5)
    run.iterate()
    save_folder(tmp_path / "policy", run.roles, run.tokenizer)
    assert (tmp_path / "policy" / "config.json").exists()
    assert not (tmp_path / "policy" / "adapter_config.json").exists()
    with torch.no_grad():
        trained = run.roles.head(run.roles.policy(TOKENS)[0])
        again = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
        torch.testing.assert_close(again(input_ids=TOKENS).logits, trained, rtol=1e-4, atol=1e-5)
        # Saving changed nothing.
        assert torch.equal(run.roles.head(run.roles.policy(TOKENS)[0]), trained)
    assert not torch.allclose(trained, adapted, atol=1e-3)


def test_a_loaded_adapter_can_be_trained_whole(adapter):
    """peft freezes the base, which supervised fine-tuning would then leave as it is."""
    assert all(p.requires_grad for p in load_causal_model(str(adapter[0])).parameters())


def test_adapters_that_can_not_be_used_say_why(adapter):
    folder, _ = adapter
    with pytest.raises(UserError, match=r"adapter is a PEFT adapter, which can not be used here: merge it"):
        new_sequence_classifier(str(folder))
    config = folder / "adapter_config.json"
    settings = json.loads(config.read_text())
    config.write_text(json.dumps(settings | {"base_model_name_or_path": None}))
    with pytest.raises(UserError, match=r"names no base_model_name_or_path"):
        load_causal_model(str(folder))
