"""Rewards that are nearly all equal: the share that is not is told, and the critic's errors are not made a signal."""

import pytest
import torch
from language_runs import MODES, training

from proximo.algorithms.ppo import PPO
from proximo.core.updates.update import NOISE
from proximo.language.ppo import training as ppo
from proximo.language.ppo.preflight import preflight
from proximo.language.rewards.informative import reward_scale, reward_statistics
from proximo.language.rewards.terms import FunctionReward


def given(*scores):
    """A reward that gives these scores, again and again."""

    def scored(prompts, responses):
        return [scores[i % len(scores)] for i in range(len(responses))]

    return [FunctionReward(scored, name="given")]


@pytest.mark.parametrize(
    ("rewarded", "share", "common", "best", "scale"),
    [
        ([0.0, 0.0, 0.0, 1.0], 0.25, 0.0, 1.0, 1.0),
        ([-1.0] * 4, 0.0, -1.0, -1.0, 1.0),
        ([-0.5] * 4, 0.0, -0.5, -0.5, 0.5),
        ([0.0] * 4, 0.0, 0.0, 0.0, 1.0),  # nothing says what size a reward would have
    ],
)
def test_statistics_of_rewards(rewarded, share, common, best, scale):
    rewarded = torch.tensor(rewarded)
    told = reward_statistics(rewarded)
    assert list(told.values()) == [share, common, best]
    assert reward_scale(rewarded) == scale
    assert reward_statistics(rewarded[:1]) == {}


@pytest.mark.parametrize(("scores", "share"), [([0.0] * 7 + [1.0], 1 / 8), ([0.0], 0.0), ([1.0, 2.0, 3.0, 4.0], 0.75)])
def test_the_share_of_rewards_that_say_something_is_a_metric(scores, share):
    run = training(MODES[0], missing_eos_floor=None)
    run.rewards = given(*scores)
    assert run.iterate()["informative_rewards"] == share


def test_where_all_rewards_are_equal_the_critics_errors_stay_as_small_as_they_are(monkeypatch):
    run = training(MODES[0], missing_eos_floor=None, kl=ppo.PPOConfig().kl)
    run.rewards = given(-1.0)
    seen, loss = [], PPO.loss

    def noted(algorithm, evaluation, part, *others):
        seen.append(part.advantages[part.weight > 0])
        return loss(algorithm, evaluation, part, *others)

    monkeypatch.setattr(PPO, "loss", noted)
    estimate, raw = run.estimate, []
    monkeypatch.setattr(run, "estimate", lambda *a: raw.append(estimate(*a)) or raw[-1])
    for _ in range(3):
        seen.clear()
        run.iterate()
        before = raw[-1].advantages[raw[-1].weight > 0]
        spread = float((before - before.mean()).square().mean().sqrt())
        learnt = float(torch.cat(seen[:2]).square().mean().sqrt())
        assert learnt == pytest.approx(min(1.0, spread / NOISE), rel=0.05)


@pytest.mark.parametrize(("scores", "verdict"), [([0.0], "warn"), ([0.0] * 4 + [1.0], "pass")])
def test_the_preflight_says_when_there_is_nothing_to_learn_from(scores, verdict, monkeypatch):
    run = training(MODES[0], missing_eos_floor=None)
    run.rewards = given(*scores)
    run.prompts.prompts = [*run.prompts.prompts] * 3
    check = next(c for c in preflight(run) if c.name == "there is something to learn from")
    assert check.verdict == verdict
    assert ("P056" in check.remedy) == (verdict == "warn")
