"""Preflight: a sound start passes every check and leaves no trace; each fault that is planted is named."""

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from language_runs import MODES, training
from rlhf_commands import run

import proximo.language
from proximo.language.ppo.preflight import failed, flight, memory, policy_checks, preflight, reward_checks
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.rewards.terms import FunctionReward, ModelReward
from proximo.runs import system


def verdicts(checks):
    return {check.name.partition(" (")[0]: check.verdict for check in checks}


def wrong(checks):
    return [check.name.partition(" (")[0] for check in failed(checks)]


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_a_sound_start_passes_in_every_sharing_mode_and_nothing_moves(sharing):
    checked, other = training(sharing), training(sharing)
    checks = preflight(checked)
    assert not failed(checks), checks
    assert verdicts(checks)["KL to the reference is 0"] == "pass"
    assert all(check.remedy for check in checks if check.verdict in ("warn", "fail"))
    checked.iterate()
    other.iterate()
    assert torch.equal(checked.optimizer.flat, other.optimizer.flat)


def test_another_reference_is_seen():
    start = training(MODES[0])
    with torch.no_grad():
        start.roles.reference_model.get_input_embeddings().weight.mul_(1.1)
    assert wrong(preflight(start)) == ["KL to the reference is 0"]


def test_a_sampler_at_another_temperature_is_seen():
    start = training(MODES[0])
    start.policy.temperature = 0.7
    assert "sampler and trainer agree" in wrong(preflight(start))


def endless():
    """A training whose policy never samples EOS."""
    start = training(MODES[0])
    never = torch.zeros(16)
    never[0] = -1e4
    for head in (start.roles.head, start.roles.reference_head):
        head.bias = torch.nn.Parameter(never.clone())
    return start


def test_responses_that_can_not_end_are_seen():
    start = endless()
    assert wrong(preflight(start)) == ["responses end"]


@pytest.fixture
def reward_model(tiny_folder, files):
    """A reward model that likes long answers, as the pairs do."""
    model = RewardModel.from_language_model(str(tiny_folder))
    pairs = [json.loads(line) for line in (files / "pairs.jsonl").read_text().splitlines()]
    model.standardise([model.tokens(p["prompt"], p[side]) for p in pairs for side in ("chosen", "rejected")])
    return model, pairs


def test_a_reward_that_says_one_thing_is_seen(reward_model, monkeypatch):
    model, _ = reward_model
    start = training(MODES[0])
    start.rewards = [FunctionReward(lambda prompts, responses: [0.5] * len(responses), name="rare")]
    assert verdicts(preflight(start))["rare tells responses apart"] == "warn"
    monkeypatch.setattr(model, "score", lambda rows: torch.full((len(rows),), 0.5))
    start.rewards = [ModelReward(model, name="flat")]
    assert wrong(preflight(start)) == ["flat tells responses apart"]


@pytest.mark.parametrize(
    ("score", "swapped", "agrees", "ends"),
    [
        (len, False, "pass", "pass"),
        (len, True, "fail", "pass"),
        # Without EOS it likes long answers as people do; EOS, which all rows end with, turns it round.
        (lambda row: len(row) if row[-1] != 0 else -len(row), False, "fail", "fail"),
    ],
    ids=["sound", "swapped", "without EOS"],
)
def test_what_people_say_of_a_reward_model(reward_model, files, score, swapped, agrees, ends, monkeypatch):
    model, pairs = reward_model
    monkeypatch.setattr(model, "score", lambda rows: torch.tensor([float(score(row)) for row in rows]))
    file = files / "held_out.jsonl"
    sides = ("rejected", "chosen") if swapped else ("chosen", "rejected")
    rows = [{"prompt": p["prompt"], "chosen": p[sides[0]], "rejected": p[sides[1]]} for p in pairs]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = training(MODES[0], held_out_pairs=str(file))
    start.rewards = [ModelReward(model, name="reward")]
    seen = verdicts(preflight(start))
    assert (seen["reward agrees with people"], seen["reward was trained with EOS"]) == (agrees, ends)


def test_a_reward_model_that_nobody_has_asked_about_people_is_a_warning(reward_model):
    start = training(MODES[0])
    start.rewards = [ModelReward(reward_model[0], name="reward")]
    unasked = [check for check in preflight(start) if check.seen == "not measured: no held-out pairs"]
    assert [check.verdict for check in unasked] == ["warn", "warn"]
    assert all("held_out_pairs" in check.remedy for check in unasked)


def test_pairs_at_even_odds_say_nothing_of_a_reward_model(reward_model, files):
    file = files / "held_out.jsonl"
    file.write_text(json.dumps({"prompt": "w4", "chosen": "w5", "rejected": "w6", "label": 0.5}) + "\n")
    start = training(MODES[0], held_out_pairs=str(file))
    start.rewards = [ModelReward(reward_model[0], name="reward")]
    assert verdicts(preflight(start))["reward agrees with people"] == "warn"


def test_presets_ask_their_reward_model_about_the_pairs_that_it_was_not_trained_on():
    for file in (Path(proximo.language.__file__).parent / "presets").glob("*.toml"):
        preset = tomllib.loads(file.read_text())
        validation = preset.get("reward", {}).get("validation")
        assert not validation or preset["ppo"].get("held_out_pairs"), file.name


def test_a_reward_model_without_a_template_for_chat_is_seen(reward_model):
    model, _ = reward_model
    start = training(MODES[0])
    start.rewards = [ModelReward(model, name="reward")]
    assert verdicts(preflight(start))["reward reads the same template"] == "pass"
    chat = [{"role": "user", "content": "w5"}]
    start.prompts.prompts = [replace(p, source=chat) for p in start.prompts.prompts]
    start.rewards = [FunctionReward(lambda prompts, responses: [0.1 * len(r) for r in responses])]
    assert "reward reads the same template" not in verdicts(preflight(start))
    flown = flight._fly(start)
    assert reward_checks._same_template(ModelReward(model, name="reward"), flown).verdict == "fail"


def test_a_tokenizer_that_rewrites_text_is_seen():
    start = training(MODES[0])
    assert verdicts(preflight(start))["tokenizer round-trip"] == "pass"
    decode = start.tokenizer.decode
    start.tokenizer.decode = lambda *arguments, **more: decode(*arguments, **more) + " w1"
    assert verdicts(preflight(start))["tokenizer round-trip"] == "warn"


@pytest.mark.parametrize(("here", "verdict"), [(64, "warn"), (4, "skip")])
def test_responses_that_are_cut_earlier_than_in_the_run_prove_nothing(here, verdict, monkeypatch):
    monkeypatch.setattr(flight, "LONGEST", here)
    assert policy_checks.lengths_fit(flight._fly(endless())).verdict == verdict


def test_adapters_are_counted_twice_while_they_are_merged():
    parts = memory.predicted(training(MODES[2]))
    whole = memory.predicted(training(MODES[0]))
    assert whole["whole weights while sampling"] == 0
    model = training(MODES[0]).roles.model
    linear = sum(m.weight.numel() for m in model.get_decoder().modules() if isinstance(m, torch.nn.Linear))
    assert parts["whole weights while sampling"] == 4 * linear


def test_memory_is_counted_and_compared(monkeypatch):
    start = training(MODES[0])
    parts = memory.predicted(start)
    model = sum(p.numel() for p in start.roles.model.parameters())
    head = start.roles.value_head
    assert parts["policy, reference and critic"] == 4 * (2 * model + head.weight.numel() + 1)
    assert parts["gradient and moments"] == 12 * (model + head.weight.numel() + 1)
    assert verdicts(preflight(start))["memory suffices"] == "pass"
    monkeypatch.setattr(memory, "available_memory", lambda: 1.0)
    monkeypatch.setattr(memory, "resident_memory", lambda: 1.0)
    assert wrong(preflight(start)) == ["memory suffices"]


def test_available_memory_is_what_the_system_says():
    available, mine = system.available_memory(), system.resident_memory()
    assert available is None or (available > 0 and mine > 0)


def test_the_table_and_the_start_of_ppo(capsys, preset, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    assert run(capsys, "sft", "--preset", preset, "--run", folder, "--quiet")[0] == 0
    assert run(capsys, "reward", "--preset", preset, "--run", folder, "--quiet")[0] == 0
    code, out, err = run(capsys, "preflight", "--preset", preset, "--run", folder, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["passed"] is True
    assert {check["verdict"] for check in told["checks"]} <= {"pass", "warn", "skip"}
    monkeypatch.setattr(memory, "available_memory", lambda: 0.0)
    monkeypatch.setattr(memory, "resident_memory", lambda: 0.0)
    code, out, _ = run(capsys, "preflight", "--preset", preset, "--run", folder, "--json")
    assert (code, json.loads(out)["passed"]) == (2, False)
    code, out, _ = run(capsys, "preflight", "--preset", preset, "--run", folder)
    assert code == 2
    assert re.search(r"FAIL +memory suffices", out)
    assert re.search(r"^\d+ checks in \d+\.\d s$", out, re.MULTILINE)
    code, _, err = run(capsys, "ppo", "--preset", preset, "--run", folder, "--quiet")
    assert code == 2
    assert "memory suffices" in err
    assert "--override-preflight" in err
    assert err.count("\n") == 1
    assert not (folder / "ppo").exists(), "nothing is written"
    assert run(capsys, "ppo", "--preset", preset, "--run", folder, "--quiet", "--override-preflight")[0] == 0
