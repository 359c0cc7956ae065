"""The record of an iteration: what it holds is what was learnt from, it is small, and it stays within its bound."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from language_runs import MODES, training
from tiny import llama, per_word

from proximo.algorithms.grpo import GRPO
from proximo.algorithms.ppo import PPO
from proximo.core.settings import UpdateSettings
from proximo.errors import UserError
from proximo.language.ppo.run import run_ppo
from proximo.language.ppo.tokens.log import TokenLog, record_of
from proximo.language.ppo.tokens.record import LARGEST, halved, read_record, recorded
from proximo.language.ppo_config import KLSettings
from proximo.language.rewards.terms import FunctionReward
from proximo.runs.storage.folder import RunFolder
from proximo.views.inspect.responses import parts_of

PAID = 7


def paid(prompts, responses, **_):
    return [float(r.split().count(f"w{PAID}")) for r in responses]


def not_always(prompts, responses, **_):
    return [None if len(r) % 2 else 0.3 * len(r) for r in responses]


@dataclass(frozen=True)
class Watched(PPO):
    """PPO that remembers the rewards that it estimates from."""

    seen: ClassVar[list] = []

    def estimate(self, rollout):
        self.seen[:] = [rollout.rewards.sum(0)]
        return super().estimate(rollout)


def watched(**changes):
    update = Watched(epochs=1, minibatch_size=4)
    run = training(MODES[0], update=update, kl=KLSettings(coefficient=0.2), score_clip=0.9, **changes)
    run.rewards = [FunctionReward(paid, weight=0.5), FunctionReward(not_always, weight=-2.0)]
    return run


@pytest.mark.parametrize("combine", ["sum", "min", "mean-std"])
def test_the_parts_of_a_reward_add_up_to_what_was_learnt_from(combine):
    run = watched(combine=combine)
    for _ in range(3):  # the KL to the reference is 0 in the first
        run.iterate()
    record, learnt = record_of(run), Watched.seen[0].numpy()
    assert np.abs(record.divergence).max() > 0.01
    assert np.abs(record.total - learnt).max() < 1e-5
    for i in range(len(learnt)):
        assert sum(part.amount for part in parts_of(record, i)) == pytest.approx(learnt[i], abs=1e-5)


def test_tokens_prompts_and_numbers_come_back_from_the_file(tmp_path):
    run = watched()
    run.iterate()
    record, batch, seen = record_of(run), run.learnt[0], run.last
    file = tmp_path / "000000.safetensors"
    file.write_bytes(record.to_bytes())
    read = read_record(file)
    for i, length in enumerate(seen.samples.lengths.tolist()):
        assert read.of_responses(read.tokens)[i].tolist() == seen.samples.tokens[i, :length].tolist()
        assert list(read.prompts[i]) == seen.texts.sampled.prompts[i]
        near = {"log_prob": batch.log_prob, "advantage": batch.advantages, "value": batch.value}
        near["ref_log_prob"] = seen.ref_log_prob
        for name, whole in near.items():
            mine = read.of_responses(getattr(read, name))[i].astype(np.float32)
            assert np.abs(mine - whole[i, :length].numpy()).max() < 2e-3 * (1 + float(whole.abs().max()))
    assert (read.score == seen.scores.numpy()).all()
    assert np.array_equal(read.terms["not_always"], seen.each["not_always"].numpy(), equal_nan=True)
    assert (read.beta, read.price, read.clamped, read.iteration, read.responses) == (0.2, 0.2, 0, 0, 8)


def test_a_small_kl_is_not_lost_between_two_large_log_probs():
    """Kept apart it is ten times as near as the difference of two log-probs of float16 would be."""
    run = training(MODES[0], kl=KLSettings(coefficient=0.1), learning_rate=1e-5)
    for _ in range(3):
        run.iterate()
    record, exact = record_of(run), run.learnt[0].log_prob - run.last.ref_log_prob
    real = torch.arange(exact.shape[1]) < run.last.samples.lengths.unsqueeze(1)
    exact = exact[real].numpy()
    halves = [halved(x[real].numpy())[0].astype(np.float32) for x in (run.learnt[0].log_prob, run.last.ref_log_prob)]
    kept, from_halves = (np.abs(kl - exact).mean() for kl in (record.kl.astype(np.float32), halves[0] - halves[1]))
    assert 0 < kept < 0.1 * from_halves


def test_a_record_takes_at_most_24_bytes_a_token():
    run = training(MODES[0], llama(context=128), batch=64, responses=64, response_limit=24)
    run.parameters = replace(run.parameters, stop=(15,))
    run.iterate()
    record = record_of(run)
    assert len(record.to_bytes()) <= 24 * len(record.tokens)


def test_what_float16_can_not_hold_is_its_largest_and_is_counted():
    half, lost = halved(np.array([1e6, -np.inf, np.nan, 65504.0, -2.5], np.float32))
    assert half.tolist() == [LARGEST, -LARGEST, 0.0, LARGEST, -2.5]
    assert lost == 3


def planted(reward, iterations):
    """The record of a run that is paid for one token, while there is still something to learn of it."""
    update = UpdateSettings(epochs=4, minibatch_size=64, value_coefficient=0.5, max_grad_norm=1.0)
    changes = {"kl": KLSettings(coefficient=0.01), "missing_eos_floor": None, "learning_rate": 3e-3}
    run = training(MODES[0], batch=256, responses=256 * 9, update=update, **changes)
    run.rewards = [FunctionReward(reward)]
    for _ in range(iterations):
        run.iterate()
    return record_of(run)


def best_token(tokens, advantages, least):
    means = {i: float(advantages[tokens == i].mean()) for i in set(tokens.tolist()) if (tokens == i).sum() >= least}
    assert len(means) > 4
    return max(means, key=means.get)


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_token_that_pays_has_the_largest_advantage(iterations):
    record = planted(paid, iterations)
    assert best_token(record.tokens, record.advantage.astype(np.float32), 20) == PAID


def test_the_advantage_stands_at_the_token_that_earned_it():
    """Only a response that begins with the token is paid: what follows it earns little once the critic knows."""
    record = planted(lambda prompts, responses: [float(r.split()[:1] == [f"w{PAID}"]) for r in responses], 3)
    first = np.concatenate([[0], np.cumsum(record.lengths)[:-1]])
    advantages = record.advantage.astype(np.float32)
    assert best_token(record.tokens[first], advantages[first], 5) == PAID
    earned = np.isin(np.arange(len(advantages)), first[record.tokens[first] == PAID])
    later = (record.tokens == PAID) & ~np.isin(np.arange(len(advantages)), first)
    assert advantages[earned].mean() > 2 * abs(advantages[later].mean())


def test_without_reference_and_critic_there_are_no_such_columns():
    plain = training(MODES[0], kl=KLSettings(coefficient=0.0))
    plain.iterate()
    record = record_of(plain)
    assert record.kl is None
    assert (record.total == record.rewarded).all()
    grouped = training(MODES[0], update=GRPO(group=2, minibatch_size=4), kl=KLSettings(coefficient=0.3))
    grouped.iterate()
    record = record_of(grouped)
    assert record.value is None
    assert (record.beta, record.price) == (0.3, 0.0)  # the loss pays


def test_the_oldest_but_the_first_go_when_the_bound_is_passed_and_it_is_said_once(ppo_config, tmp_path):
    terms, kept = [FunctionReward(per_word)], tmp_path / "run"
    run = run_ppo(replace(ppo_config, run=str(kept), responses=8), mode="quiet", rewards=terms, preflight="off")
    size = next(iter(recorded(run.path).values())).stat().st_size
    trained = training(MODES[0])
    log = TokenLog(RunFolder(tmp_path), 3.5 * size / 1e6)
    said = []
    for _ in range(7):
        trained.iterate()
        said += log.keep(trained)
        assert sum(file.stat().st_size for file in recorded(tmp_path).values()) <= 3.5 * size
    there = list(recorded(tmp_path))
    assert there[0] == 0
    assert there[1:] == list(range(8 - len(there), 7))
    assert len(there) >= 2
    assert len(said) == 1
    assert "oldest records but the first" in said[0]
    small = TokenLog(RunFolder(tmp_path / "small"), 1e-5)
    (news,) = small.keep(trained)
    assert "is not recorded" in news
    assert small.keep(trained) == []
    assert not (tmp_path / "small").exists()


def test_nothing_is_recorded_at_0(ppo_config, tmp_path):
    config = replace(ppo_config, run=str(tmp_path / "run"), responses=8, record_mb=0)
    run = run_ppo(config, mode="quiet", rewards=[FunctionReward(per_word)], preflight="off")
    assert not (run.path / "tokens").exists()


@pytest.mark.parametrize("damage", [lambda x: x[:200], lambda x: b"", lambda x: x.replace(b"beta", b"beka")])
def test_a_damaged_record_is_named(damage, tmp_path):
    run = training(MODES[0])
    run.iterate()
    file = tmp_path / "000000.safetensors"
    file.write_bytes(damage(record_of(run).to_bytes()))
    with pytest.raises(UserError, match=r"000000\.safetensors is damaged"):
        read_record(file)
