"""An update of a language run done again is the same to the last bit, in every way of sharing weights."""

import json
from dataclasses import replace

import pytest
import tiny
import torch
from language_runs import MODES
from updates import update

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.inspection import replay
from proximo.language.ppo.run import make_training, run_ppo
from proximo.language.ppo_config import KLSettings, SharingSettings
from proximo.language.rewards.reward_model import RewardModel
from proximo.language.rewards.terms import FunctionReward
from proximo.runs.replay.entry import Kept, read, write


@pytest.fixture
def config(ppo_config, tmp_path):
    return replace(ppo_config, run=str(tmp_path / "run"), responses=8 * 3, learning_rate="1e-2 -> 0")


def ppo(config):
    return run_ppo(config, mode="quiet", rewards=[FunctionReward(tiny.per_word, name="words")], preflight="off").path


@pytest.mark.parametrize("sharing", MODES, ids=lambda s: f"{s.mode}-{s.critic}")
def test_an_update_done_again_is_the_same_to_the_last_bit(sharing, config):
    folder = ppo(replace(config, sharing=sharing, kl=KLSettings(coefficient=0.1, target=0.5, horizon=64)))
    kept = read(folder / "replay")
    assert [entry.iteration for entry in kept.entries] == [0, 1, 2]
    for entry in kept.entries[::2]:
        found = replay(folder, entry.iteration)
        assert found.exact, found.verdict
        assert not torch.equal(found.again.weights, entry.before.weights)
        assert found.again.report.values == entry.report["values"]


def test_with_a_setting_changed_it_is_the_update_of_a_run_with_that_setting(config):
    folder = ppo(config)
    # A run with another price of divergence is the same up to its first update: nothing was ever paid before.
    for change, other in (
        ("kl.coefficient=3.0", replace(config, kl=KLSettings(coefficient=3.0))),
        ("lam=0.5", replace(config, lam=0.5)),
        ("learning_rate=1e-3", replace(config, learning_rate=1e-3)),
        ("epochs=1", replace(config, update=replace(config.update, epochs=1))),
    ):
        training, _ = make_training(replace(other, run="elsewhere"), [FunctionReward(tiny.per_word, name="words")])
        training.iterate()
        found = replay(folder, 0, change)
        assert found.exact
        assert torch.equal(found.other.weights, training.optimizer.flat), change
        assert change == "kl.coefficient=3.0" or not torch.equal(found.other.weights, found.again.weights)
    with pytest.raises(UserError, match=r"recompute_advantages: that does not enter the update of this run"):
        replay(folder, 0, "recompute_advantages=true")
    with pytest.raises(UserError, match="minibatch_size = 3 does not divide the 8 responses"):
        replay(folder, 0, "minibatch_size=3")


def test_samples_are_told_by_their_tokens(config, capsys):
    folder = ppo(config)
    assert main(["replay", str(folder), "--iteration", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["iteration"], found["exact"], found["kept"]) == (1, True, [0, 1, 2])
    learnt = read(folder / "replay").choose(1).learnt
    for sample in found["again"]["moved_most"] + found["again"]["largest_advantages"]:
        where = sample["where"]
        assert learnt["action"][where["response"], where["token"]] == where["id"]
        assert learnt["weight"][where["response"], where["token"]] == 1.0
        assert where["text"].strip("'").strip() in ("</s>", "<unk>", "user", "assistant", f"w{where['id']}")
        assert where["prompt"].startswith("'w")


def test_the_same_update_by_hand(config):
    folder = ppo(config)
    entry = read(folder / "replay").choose(None)
    training, _ = make_training(replace(config, run="elsewhere"), [FunctionReward(tiny.per_word, name="words")])
    training.iterate()
    training.iterate()
    training.remember()
    batch = training.estimate(training.collect())
    training.optimizer.learning_rate = 1e-2 * (1 - 16 / 24)
    update(
        training.policy,
        batch,
        training.optimizer,
        replace(config.update, clip=None),
        progress=16 / 24,
        generator=training.shuffle,
        split=training.policy.split,
        tolerance=1e-2,
    )
    found = replay(folder, entry.iteration, "clip=none")
    assert torch.equal(found.other.weights, training.optimizer.flat)


def test_what_was_not_finite_first_is_named_with_its_token(config):
    folder = ppo(config)
    entry = read(folder / "replay").choose(None)
    learnt = {name: x.clone() for name, x in entry.learnt.items()}
    row = int((learnt["weight"].sum(1) > 1).nonzero()[0])
    learnt["advantages"][row, 1] = float("nan")
    write(
        folder / "replay", Kept(read(folder / "replay").run, [replace(entry, learnt=learnt, after=None, report=None)])
    )
    found = replay(folder)
    assert (found.exact, found.again.not_finite) == (True, "advantages of the batch")
    assert "not-finite: advantages" in found.again.error
    bad = [s.where for s in found.again.largest_advantages if s.advantage != s.advantage]
    assert [(where["response"], where["token"]) for where in bad] == [(row, 1)]


def test_a_critic_that_began_as_a_reward_model_has_its_shape(config, tmp_path, tiny_tokenizer):
    shorter = tmp_path / "shorter"
    tiny.llama(64, layers=1, seed=3).save_pretrained(shorter)
    tiny_tokenizer.save_pretrained(shorter)
    RewardModel.from_language_model(str(shorter)).save(tmp_path / "reward")
    sharing = SharingSettings(mode="full", critic="separate", critic_from="reward")
    folder = run_ppo(
        replace(config, sharing=sharing, rewards={str(tmp_path / "reward"): 1.0}), mode="quiet", preflight="off"
    ).path
    assert replay(folder).exact
