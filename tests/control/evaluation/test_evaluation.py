"""Evaluations end, say how far they are, can be left, and count the episodes of many copies at once."""

import json

import gymnasium
import numpy as np
import pytest
import torch
from control_runs import configured, running
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.cli.results import three_numbers
from proximo.control.environments import make_environments
from proximo.control.evaluation.evaluate import LONGEST, Watch, evaluate, evaluate_all, longest_episode
from proximo.control.evaluation.results import evaluate_run
from proximo.control.models.policy import ControlPolicy
from proximo.errors import UserError
from proximo.runs.session.signals import Interrupted

SMALL = {"environments": 2, "rollout_length": 32, "steps": 128, "episodes": 3, "update": {"minibatch_size": 64}}


class Counts(gymnasium.Env):
    """Pays the action; an episode has `length` steps, or none ends."""

    observation_space, action_space = spaces.Box(0, 1, (1,), np.float32), spaces.Discrete(2)

    def __init__(self, length=None):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return np.ones(1, np.float32), {}

    def step(self, action):
        self.now += 1
        return np.ones(1, np.float32), float(action), False, self.now == self.length, {}


class Pays(Counts):
    """Pays less the further the action is from 0.25, in episodes of `length` steps."""

    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def step(self, action):
        self.now += 1
        return np.ones(1, np.float32), -abs(float(action[0]) - 0.25), False, self.now == self.length, {}


def steady(policy, action):
    """The same policy, with one mean in all states."""
    other = ControlPolicy.build(policy.describe())
    with torch.no_grad():
        other.network.actor_head.weight.zero_()
        other.network.actor_head.bias.fill_(action)
    return other


def biased(policy, action):
    """The same policy, but sure of one action."""
    other = ControlPolicy.build(policy.describe())
    with torch.no_grad():
        other.network.actor_head.weight.zero_()
        other.network.actor_head.bias.copy_(torch.eye(2)[action] * 100)
    return other


@pytest.fixture(scope="module")
def policies():
    with running(lambda: Counts(5), count=2, length=4) as training:
        return {str(action): biased(training.policy, action) for action in (0, 1)}


class Alike:
    """PettingZoo: two agents, who are paid where both do the same, four times."""

    possible_agents, metadata = ("a", "b"), {}

    def observation_space(self, agent):
        return spaces.Box(0, 1, (1,), np.float32)

    def action_space(self, agent):
        return spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, seed=None, options=None):
        self.now, self.agents = 0, list(self.possible_agents)
        return self.of_both(np.ones(1, np.float32)), {}

    def step(self, actions):
        self.now += 1
        paid, over, both = float((actions["a"] == actions["b"]).all()), self.now == 4, self.of_both
        self.agents = [] if over else self.agents
        return both(np.ones(1, np.float32)), both(paid), both(over), both(False), both({})

    def of_both(self, x):
        return dict.fromkeys(self.possible_agents, x)

    def close(self):
        pass


def test_agents_of_one_copy_are_moved_by_one_policy():
    environments = make_environments(Alike, 2)
    with running(Alike, count=2, length=4) as training:
        plan = {f"{action}": (steady(training.policy, action), True) for action in (-0.5, 0.5)}
    told = evaluate_all(plan, environments, 1, seed=0)
    assert [seen.returns for seen in told.values()] == [(4.0,)] * 2


@pytest.mark.parametrize("count", [2, 8], ids=["one after the other", "side by side"])
def test_with_noise_of_the_state_too_each_policy_has_its_own_mode_and_its_own_noise(count):
    # The best action is 0.25. One policy acts by 0.25 in all states, one by -0.25 and one as the first, with noise.
    with running(lambda: Pays(4), count=2, length=4, network={"noise": "gsde", "hidden": (8,)}) as training:
        near, far = (steady(training.policy, action) for action in (0.25, -0.25))
    named = {"far": (far, True), "near": (near, True), "noisy": (near, False)}
    environments = make_environments(lambda: Pays(4), count)
    try:
        found = evaluate_all(named, environments, 2, seed=0)
    finally:
        environments.close()
    assert found["near"].returns == pytest.approx([0.0, 0.0], abs=1e-5)
    assert found["far"].returns == pytest.approx([-2.0, -2.0], abs=1e-5)
    assert max(found["noisy"].returns) < -0.1


@pytest.mark.parametrize(
    ("limit", "episodes", "steps", "longest"),
    [
        (None, 3, 10**6, LONGEST),
        (None, 0, 0, 1_000),
        (None, 0, 8 * 2_500, 2_500),
        (None, 0, 8 * 10**6, LONGEST),
        (7, 0, 10**6, 7),
        (50_000, 3, 0, 50_000),
    ],
)
def test_an_episode_is_cut_where_there_is_no_reason_to_wait(limit, episodes, steps, longest):
    assert longest_episode(configured(count=8, episode_limit=limit), episodes, steps) == longest


@pytest.mark.parametrize("longest", [LONGEST, 1_000])
def test_a_task_without_an_end_is_evaluated_and_said_to_have_none(tmp_path, capsys, monkeypatch, longest):
    """Also where the steps of training allow for the longest episodes that there are."""
    monkeypatch.setattr("proximo.control.evaluation.evaluate.LONGEST", longest)
    run = proximo.train(Counts, run=tmp_path / "run", progress="plain", **SMALL)
    assert (
        "an episode of the evaluations is cut after 1,000 steps, for none has ended in training"
        in capsys.readouterr().err
    )
    assert (run.results["unfinished_episodes"], run.results["episode_limit"]) == (3, 1_000)
    assert run.results["final_deterministic"] in (0.0, 1_000.0)
    assert "3 were cut after 1,000 steps" in three_numbers(run.results)["final deterministic"]


def test_the_limit_can_be_set_and_holds_for_evaluate(tmp_path):
    run = proximo.train(f"{__name__}:Counts", run=tmp_path / "run", progress="quiet", episode_limit=20, **SMALL)
    assert run.results["final_deterministic"] in (0.0, 20.0)
    assert evaluate_run(run.path, 2)["episode_limit"] == 20
    again = evaluate_run(run.path, 2, limit=30)
    assert (again["episode_limit"], again["unfinished_episodes"]) == (30, 2)
    assert again["final_deterministic"] in (0.0, 30.0)
    with pytest.raises(UserError, match="episode_limit = 0 must be a whole number, at least 1"):
        evaluate_run(run.path, 2, limit=0)


def test_episodes_that_end_are_counted_whole_beside_one_that_does_not(policies):
    lengths = iter([None, 4, 6])
    environments = make_environments(lambda: Counts(next(lengths)), 3, backend="gymnasium")
    seen = evaluate(policies["1"], environments, 5, deterministic=True, seed=0, limit=50)
    # Two rounds of three, less one: the one without an end counts with what it had returned, twice.
    assert seen.lengths == (50, 4, 6, 50, 4)
    assert seen.returns == (50.0, 4.0, 6.0, 50.0, 4.0)
    assert seen.unfinished == 2


def test_an_episode_that_was_cut_goes_on_uncounted_while_others_end(policies):
    class Sometimes(Counts):
        """Of whose episodes the second never ends, and all others do after 4 steps."""

        count = 0

        def reset(self, *, seed=None, options=None):
            self.count += 1
            self.length = None if self.count == 2 else 4
            return super().reset(seed=seed, options=options)

    ways = iter([Sometimes, lambda: Counts(30)])
    environments = make_environments(lambda: next(ways)(), 2, backend="gymnasium")
    seen = evaluate(policies["1"], environments, 8, deterministic=True, seed=0, limit=10)
    # The other row is cut in each round, four times; this one once: its third and fourth episode come after a reset.
    assert seen.lengths == (4, 10, 10, 10, 4, 10, 4, 10)
    assert seen.returns == tuple(map(float, seen.lengths))
    assert seen.unfinished == 5


def test_an_evaluation_says_how_far_it_is_and_can_be_left(policies):
    told = []
    environments = make_environments(lambda: Counts(5), 2, backend="gymnasium")
    evaluate(policies["1"], environments, 4, deterministic=True, seed=0, watch=Watch(told.append, every=0.0))
    assert told[0] == "evaluating: 0 of 4 episodes, 0 steps in each environment"
    assert told[-1] == "evaluating: 2 of 4 episodes, 9 steps in each environment"
    asked = iter([False] * 3 + [True])
    with pytest.raises(Interrupted):
        evaluate(policies["1"], environments, 4, deterministic=True, seed=0, watch=Watch(stopped=lambda: next(asked)))


class Wide(SyncVectorEnv):
    """Counts the steps of the whole batch."""

    steps = 0

    def step(self, actions):
        Wide.steps += 1
        return super().step(actions)


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_many_copies_are_evaluated_in_one_pass_by_the_first_of_them(policies, mode):
    # The copies after those that are needed never end.
    lengths = [4, 5] * 3 + [None] * 10
    vector = Wide([lambda n=n: Counts(n) for n in lengths], autoreset_mode=mode)
    environments = make_environments(vector, len(lengths))
    Wide.steps = 0
    plan = {"never": (policies["0"], True), "always": (policies["1"], True), "sampled": (policies["1"], False)}
    seen = evaluate_all(plan, environments, 2, seed=0, limit=1_000)
    assert {name: each.returns for name, each in seen.items()} == {
        "never": (0.0, 0.0),
        "always": (4.0, 5.0),
        "sampled": (4.0, 5.0),
    }
    assert Wide.steps == 5
    assert evaluate(policies["1"], environments, 1, deterministic=True, seed=0).lengths == (4,)
    assert Wide.steps == 9


def test_policies_with_memory_act_side_by_side_as_they_do_alone():
    memory = {"network": {"memory": "gru"}}
    with running(lambda: Counts(6), count=2, length=4, **memory) as training:
        policy = training.policy
    vector = SyncVectorEnv([lambda: Counts(6)] * 4, autoreset_mode=AutoresetMode.SAME_STEP)
    environments = make_environments(vector, 4)
    together = evaluate_all({"a": (policy, True), "b": (policy, True)}, environments, 2, seed=0)
    alone = evaluate(policy, environments, 4, deterministic=True, seed=0)
    assert together["a"].returns + together["b"].returns == alone.returns


def test_metrics_without_episodes_tell_the_limit(tmp_path):
    run = proximo.train(
        f"{__name__}:Counts", run=tmp_path / "run", progress="quiet", stop_at=128, **{**SMALL, "steps": 256}
    )
    assert json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])["episodes"] == 0
    assert evaluate_run(run.path, 1)["episode_limit"] == 1_000
