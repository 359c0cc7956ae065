"""A language run that is stopped, killed or breaks goes on as if it had not been, in every sharing mode."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace

import pytest
import torch
from language_runs import MODES
from tiny import per_word

from proximo.errors import UserError
from proximo.inspection import replay
from proximo.language.ppo.run import run_ppo
from proximo.language.ppo.training import PPOTraining
from proximo.language.ppo.verify import verify_language
from proximo.language.ppo_config import KLSettings
from proximo.language.rewards.terms import FunctionReward
from proximo.runs.replay.entry import read
from proximo.runs.session.opening import Call
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint
from proximo.runs.storage.metrics import read_metrics


@pytest.fixture
def config(ppo_config):
    kl = KLSettings(coefficient=0.1, target=0.5, horizon=64)
    return replace(ppo_config, responses=8 * 5, checkpoint_every=8 * 2, keep=9, kl=kl)


def ppo(config, folder, rewards=per_word, **call):
    terms = [FunctionReward(rewards, name="words")]
    return run_ppo(replace(config, run=str(folder)), mode="quiet", rewards=terms, call=Call(**call), preflight="off")


def same(one, other):
    for part in ("metrics", "samples"):
        rows = [
            [json.loads(line) for line in (x.path / f"{part}.jsonl").read_text().splitlines()] for x in (one, other)
        ]
        clock = ("time", "seconds", "tokens_per_second", "memory")
        plain = [[{k: v for k, v in row.items() if not k.startswith(clock)} for row in part] for part in rows]
        assert plain[0] == plain[1]
    records = [{file.name: file.read_bytes() for file in (x.path / "tokens").iterdir()} for x in (one, other)]
    assert records[0] == records[1]
    assert len(records[0]) == len((one.path / "metrics.jsonl").read_text().splitlines())
    (a, state_a), (b, state_b) = (load_checkpoint(latest_checkpoint(x.path / "checkpoints")) for x in (one, other))
    assert state_a == state_b
    assert a.keys() == b.keys()
    own = [name for name in a if not name.startswith("random/") or name.startswith("random/generators/")]
    assert [name for name in own if not torch.equal(a[name], b[name])] == []
    assert any(name.startswith("random/generators/") for name in own)


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_a_run_that_is_stopped_or_killed_goes_on_as_if_it_had_not_been(sharing, config, tmp_path):
    config = replace(config, sharing=sharing)
    whole = ppo(config, tmp_path / "whole")
    for stop_at in (0, 9, 24):  # before the first iteration, in the middle of the second, after the third
        stopped = ppo(config, tmp_path / "stopped", stop_at=stop_at)
        assert stopped.stopped == "stop-at"
        assert stop_at <= stopped.results["responses"] < config.responses
    same(whole, ppo(config, tmp_path / "stopped"))
    # A kill after the fifth iteration's record and before its checkpoint: back to that of the fourth.
    shutil.copytree(whole.path, tmp_path / "killed")
    (tmp_path / "killed" / "results.json").unlink()
    latest = latest_checkpoint(tmp_path / "killed" / "checkpoints")
    assert latest.name.endswith("40")
    shutil.rmtree(latest)
    with open(tmp_path / "killed" / "samples.jsonl", "ab") as file:
        file.write(b'{"responses": 40, "prompt": "w4 \xff')  # torn
    for left in ("000004.safetensors", "000007.safetensors", ".000004.safetensors.1.tmp"):
        (tmp_path / "killed" / "tokens" / left).write_bytes(b"half")
    same(whole, ppo(config, tmp_path / "killed"))


@pytest.mark.parametrize("limit", ["minutes", "budget"])
def test_a_run_that_ended_early_and_was_killed_before_it_wrote_its_policy_does_not_go_on(config, tmp_path, limit):
    """What ended it is in its last checkpoint: time, and the KL of an iteration that is not repeated."""
    if limit == "minutes":
        config = replace(config, minutes=1e-4)
    else:
        config = replace(config, kl=replace(config.kl, budget=1e-9))
    whole = ppo(config, tmp_path / "r")
    assert whole.results["responses"] < config.responses
    (whole.path / "results.json").unlink()
    shutil.rmtree(whole.path / "policy")
    again = ppo(config, tmp_path / "r")
    assert again.results == whole.results
    assert (whole.path / "policy" / "config.json").exists()
    longer = ppo(replace(config, minutes=None, kl=replace(config.kl, budget=None)), tmp_path / "r", allow_change=True)
    assert longer.results["responses"] == config.responses


def test_a_run_is_verified_and_what_is_not_exact_is_named(config):
    drawn = random.Random(0)

    def moody(prompts, responses):
        return [drawn.random() for _ in responses]

    good = verify_language(config, 2, [FunctionReward(per_word, name="words")])
    assert good.exact
    assert [c.what.split(" from")[0] for c in good.comparisons] == ["stopped and resumed", "killed and resumed"]
    bad = verify_language(config, 1, [FunctionReward(per_word, name="words"), FunctionReward(moody, name="moody")])
    assert not bad.exact
    assert bad.causes[0] == "reward moody does not give the same responses the same score twice"
    assert "the same settings do not give the same run twice" in bad.causes[1]
    assert bad.comparisons[0].iteration == 1
    assert "reward/moody" in bad.comparisons[0].metrics


def test_sigterm_in_a_long_iteration_saves_what_was_before_it(config, tmp_path, monkeypatch):
    monkeypatch.setattr("proximo.runs.session.signals.StopRequest.__init__.__defaults__", (0.2,))
    calls, waited = [], []

    def slow(prompts, responses):
        calls.append(len(responses))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            while len(waited) < 1000:
                waited.append(time.sleep(0.03))
        return per_word(prompts, responses)

    whole = ppo(config, tmp_path / "whole")
    stopped = ppo(config, tmp_path / "stopped", slow)
    assert len(waited) < 1000, "it did not wait for the end of its iteration"
    assert (stopped.stopped, stopped.results["responses"]) == ("SIGTERM", 16)
    same(whole, ppo(config, tmp_path / "stopped", allow_change=True))  # it goes on with a function that is not slow


def test_without_a_copy_a_broken_update_leaves_the_last_checkpoint(config, tmp_path):
    wild = replace(config, learning_rate="1e-2 -> 1e37", kl=KLSettings(), checkpoint_every=8, undo=False)
    with pytest.raises(UserError, match=r"not-finite.*resumes from its last checkpoint"):
        ppo(wild, tmp_path / "run")
    newest = latest_checkpoint(tmp_path / "run" / "checkpoints")
    tensors, _ = load_checkpoint(newest)
    assert all(bool(torch.isfinite(x).all()) for x in tensors.values() if x.is_floating_point())
    with pytest.raises(UserError, match="was undone"):
        ppo(replace(wild, undo=True), tmp_path / "other")
    assert latest_checkpoint(tmp_path / "other" / "checkpoints").name == newest.name


def test_an_update_that_blows_up_is_undone_and_its_batch_kept(config, tmp_path):
    folder = tmp_path / "run"
    wild = replace(config, learning_rate="1e-2 -> 1e37", kl=KLSettings())
    with pytest.raises(UserError, match=r"not-finite.*was undone.*proximo replay") as caught:
        ppo(wild, folder)
    tensors, state = load_checkpoint(latest_checkpoint(folder / "checkpoints"))
    assert all(bool(torch.isfinite(x).all()) for x in tensors.values() if x.is_floating_point())
    failed = replay(folder)
    assert failed.exact
    assert failed.again.error in str(caught.value)
    assert failed.again.not_finite.endswith("of minibatch 1")
    batch = read(folder / "replay").entries[-1].learnt
    assert batch["action"].shape[0] == 8
    assert all(bool(torch.isfinite(x).all()) for x in batch.values() if x.is_floating_point())
    rows = read_metrics(folder / "metrics.jsonl")
    assert "not-finite" in rows[-1]["error"]
    with pytest.raises(UserError) as again:
        ppo(wild, folder)
    assert str(again.value) == str(caught.value)
    repeated = read(folder / "replay").entries[-1].learnt
    assert all(torch.equal(batch[name], repeated[name]) for name in batch)
    assert len(read_metrics(folder / "metrics.jsonl")) == len(rows), "its last word does not come twice"
    done = ppo(config, folder, allow_change=True)
    assert done.results["responses"] == config.responses
    assert state["progress"]["responses"] < config.responses


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_a_failed_update_is_undone_to_the_last_bit(sharing, config, monkeypatch):
    from proximo.core.invariants import InvariantError
    from proximo.language.ppo.run import make_training

    training, _ = make_training(replace(config, sharing=sharing), [FunctionReward(per_word)])
    training.iterate()
    tensors, state = training.state()
    before = {name: x.clone() for name, x in tensors.items()}

    def failing(self, *_):
        raise InvariantError("seen after the update")

    with monkeypatch.context() as patch:
        patch.setattr(PPOTraining, "measure", failing)
        with pytest.raises(InvariantError):
            training.iterate()
    moved = training.state()[0]
    assert any(not torch.equal(before[name], moved[name]) for name in before if name.startswith("trained/"))
    training.rewind()
    now, state_now = training.state()
    assert state_now == state
    assert [name for name in before if not torch.equal(before[name], now[name])] == []
