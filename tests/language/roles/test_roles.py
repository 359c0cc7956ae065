"""Roles hold and run what an update needs and nothing else; a critic from a reward model begins with its scores."""

import copy
import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from language_runs import MODES, PROMPTS, training
from tiny import llama, per_word, prompts
from transformers import LlamaForSequenceClassification

from proximo.core.updates.optimizer import FlatAdam
from proximo.errors import UserError
from proximo.inspection import replay
from proximo.language.config import SFTConfig
from proximo.language.data.dataset import Example
from proximo.language.models.loading import load_tokenizer
from proximo.language.ppo.preflight import preflight
from proximo.language.ppo.run import run_ppo
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo_config import KLSettings, SharingSettings
from proximo.language.rewards.configured import reward_start
from proximo.language.rewards.reward_model import RewardModel, separate_padding
from proximo.language.rewards.terms import FunctionReward, ModelReward
from proximo.language.sampling.texts import to_batch
from proximo.language.supervised.sft import SFTTraining
from proximo.runs.session.opening import Call

FREE = KLSettings(coefficient=0.0)


def reward_model(tokenizer, seed=1):
    model = llama(64, layers=2)
    config = copy.deepcopy(model.config)
    config.num_labels = 1
    torch.manual_seed(seed)
    classifier = LlamaForSequenceClassification(config).eval()
    separate_padding(classifier, tokenizer)
    return RewardModel(classifier, tokenizer)


@pytest.mark.parametrize("weight", [1.0, -2.0])
def test_a_critic_from_a_reward_model_begins_with_its_weighted_scores(ppo_config, tiny_model, tiny_folder, weight):
    """At every token, so at the last one with the score; and its layers learn from the first step on."""
    scorer = reward_model(load_tokenizer(str(tiny_folder)))
    sharing = SharingSettings(mode="full", critic="separate", critic_from="reward")
    config = replace(ppo_config, sharing=sharing, responses=64)
    term, tokenizer = ModelReward(scorer, weight), load_tokenizer(str(tiny_folder))
    decoder, head = reward_start(config, tokenizer, [FunctionReward(per_word), term])
    asked = prompts(*PROMPTS)
    run = PPOTraining(config, tiny_model, tokenizer, asked, [term], reward_decoder=decoder, reward_head=head)
    samples = run.sample([p.tokens for p in asked])
    _, values = run.policy.scored(to_batch(asked, samples))
    for row, prompt in enumerate(asked):
        for t in range(int(samples.lengths[row])):
            read = prompt.tokens + samples.tokens[row, :t].tolist()
            assert float(values[row, t]) == pytest.approx(weight * float(scorer.score([read])), abs=1e-5)
    before = {name: p.clone() for name, p in run.roles.critic.named_parameters()}
    run.policy.evaluate(next(run.policy.split(to_batch(asked, samples)))).value.sum().backward()
    assert all(float(p.grad.norm()) > 0 for name, p in run.roles.critic.named_parameters() if "layers" in name)
    assert set(before) == set(dict(scorer.decoder.named_parameters()))
    assert torch.equal(scorer.head.weight, reward_model(load_tokenizer(str(tiny_folder))).head.weight), "still its own"


def passes(run):
    """Forward passes of one iteration by phase and network."""
    run.iterate()  # sampler and trainer are compared here
    roles, seen, phase = run.roles, Counter(), [""]
    networks = {"policy": roles.policy.parts[-1]}
    if roles.settings.mode == "full":
        networks |= {"reference": roles.reference.parts[0]} if hasattr(roles, "reference") else {}
        networks |= {"critic": roles.critic} if roles.separate else {}
    for name, network in networks.items():
        network.register_forward_hook(lambda *_, name=name: seen.update([(phase[0], name)]))
    timed = run._phase

    @contextmanager
    def named(name):
        phase[0] = name
        with timed(name):
            yield
        phase[0] = ""

    run._phase = named
    values = run.iterate()
    return {key: n for key, n in seen.items() if key[0] == "score"}, values


def test_scoring_runs_each_network_that_is_needed_once():
    full, own = SharingSettings(), SharingSettings(critic="separate")
    assert passes(training(full))[0] == {("score", "reference"): 1}
    assert passes(training(own))[0] == {("score", "reference"): 1, ("score", "critic"): 1}
    assert passes(training(full, kl=FREE))[0] == {}
    assert passes(training(own, kl=FREE))[0] == {("score", "critic"): 1}


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_without_a_price_nothing_is_known_of_the_reference(sharing):
    """And nothing else is changed: values of the critic are those of a whole pass."""
    run = training(sharing, kl=FREE)
    values = run.iterate()
    assert (values["kl"], values["kl_k3"], values["kl_se"], values["kl_coefficient"]) == (None, None, None, 0.0)
    verdicts = {check.name: check.verdict for check in preflight(run)}
    assert verdicts[f"KL to the reference is 0 ({sharing.mode})"] == "skip"
    budget = training(sharing, kl=KLSettings(coefficient=0.0, budget=9.0))
    assert budget.iterate()["kl"] is not None, "what may end a run is measured"
    if sharing.critic == "separate":
        batch = run.estimate(run.collect())
        torch.testing.assert_close(run.policy.values(batch), run.policy.scored(batch)[1])


def test_a_run_without_a_reference_is_written_replayed_and_resumed(ppo_config, tmp_path):
    config = replace(ppo_config, kl=FREE, responses=32, run=str(tmp_path / "run"), checkpoint_every=16)
    terms = [FunctionReward(per_word)]
    once = run_ppo(config, mode="quiet", rewards=terms, preflight="off")
    halves = replace(config, run=str(tmp_path / "halves"))
    for stop in (16, None):
        run = run_ppo(halves, mode="quiet", rewards=terms, preflight="off", call=Call(stop_at=stop))
    ends = [(path / "policy" / "model.safetensors").read_bytes() for path in (once.path, run.path)]
    assert ends[0] == ends[1]
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert [row["kl"] for row in rows] == [None] * 4
    assert replay(run.path, 2).exact
    with pytest.raises(UserError, match=r"kl\.coefficient: that does not enter the update of this run"):
        replay(run.path, 2, "kl.coefficient=1.0")


def held(roles):
    """Numbers in decoder layers, shared ones once."""
    return sum(
        {
            p.data_ptr(): p.numel() for name, p in roles.named_parameters() if ".layers." in name or "top." in name
        }.values()
    )


def test_top_layers_are_held_twice_and_a_free_policy_has_no_copy():
    model = llama(layers=4)
    layer = sum(p.numel() for p in model.get_decoder().layers[0].parameters())
    norm = model.get_decoder().norm.weight.numel()
    run = training(SharingSettings(mode="top_layers", top_layers=2), model)
    assert held(run.roles) == 6 * layer + norm
    before = [p.clone() for p in model.get_decoder().layers[2:].parameters()]
    run.iterate()
    after = list(model.get_decoder().layers[2:].parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the model's own are the reference's"
    assert held(training(SharingSettings(), llama(layers=4), kl=FREE).roles) == 4 * layer
    assert held(training(SharingSettings(), llama(layers=4)).roles) == 8 * layer


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_a_model_in_bfloat16_is_trained(sharing):
    """What is trained is float32: a step is far below the rounding of a weight in half precision."""
    run = training(sharing, llama().to(torch.bfloat16))
    before = run.optimizer.flat.clone()
    run.iterate()
    assert {p.dtype for p in run.roles.trainable()} == {torch.float32}
    assert float((run.optimizer.flat != before).float().mean()) > 0.5
    frozen = {p.dtype for p in run.roles.parameters() if not p.requires_grad}
    assert (torch.bfloat16 in frozen) == (sharing.mode == "lora"), "a base under adapters stays as it is"


def counted(model):
    """Counts how often each layer is recomputed, once `gradient_checkpointing_enable` was called."""
    model.gradient_checkpointing_enable()
    calls = []
    for layer in model.get_decoder().layers:
        inner = layer._gradient_checkpointing_func
        layer._gradient_checkpointing_func = lambda *a, inner=inner, **k: (calls.append(1), inner(*a, **k))[1]
    return calls


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_gradient_checkpointing_recomputes_in_the_update_and_changes_nothing(sharing):
    model = llama()
    calls = counted(model)
    run, plain = training(sharing, model), training(sharing)
    for _ in range(2):
        a, b = run.iterate(), plain.iterate()
    assert calls, "layers were recomputed"
    torch.testing.assert_close(run.optimizer.flat, plain.optimizer.flat, rtol=1e-5, atol=1e-6)
    assert a["score"] == b["score"]


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")
def test_gradient_checkpointing_recomputes_in_fine_tuning_too(tiny_model, tiny_tokenizer):
    calls = counted(tiny_model)
    training = SFTTraining(SFTConfig(batch=2), tiny_model, tiny_tokenizer, [Example([4], [5, 0]), Example([6], [7, 0])])
    training.iterate()
    assert len(calls) == 2, "once for each layer"


def test_epsilon_is_adams():
    """A gradient g that never changes moves a weight by lr g / (|g| + ε) a step, whatever the moments' ages."""
    for epsilon in (1e-8, 1e-5, 1e-2):
        run = training(SharingSettings(), adam_epsilon=epsilon)
        assert isinstance(run.optimizer, FlatAdam)
        run.optimizer.learning_rate = 1.0
        before = run.optimizer.flat.clone()
        run.optimizer.gradient.fill_(1e-5)
        run.optimizer.step()
        moved = float((before - run.optimizer.flat).mean())
        assert moved == pytest.approx(1e-5 / (1e-5 + epsilon), rel=1e-2)
