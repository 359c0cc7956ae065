"""A user's wrappers find the environment inside them as they left it; returns are counted outside of them."""

import copy
import json
import pickle

import cloudpickle
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.cli.results import three_numbers
from proximo.control.environments import EpisodeCounter, make_environments
from proximo.runs.storage.code_identity import code_digest

LIMIT = 6


class Paying(gymnasium.Env):
    """Pays 1, 2, 3, ... (so 21 in six steps), from `offset` on."""

    observation_space, action_space = spaces.Box(-9, 9, (1,), np.float32), spaces.Discrete(2)
    offset = 0.0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.seen(), {}

    def seen(self):
        return np.full(1, self.now, np.float32)

    def step(self, action):
        self.now += 1
        return self.seen(), self.offset + self.now, False, self.now == LIMIT, {}


class Inherited(Paying):
    pass


class Super(Paying):
    def step(self, action):
        return super().step(action)


class Recursive(Paying):
    def step(self, action, again=True):
        return self.step(action, again=False) if again else super().step(action)


class Slotted(Paying):
    __slots__ = ()


class Reads(gymnasium.Wrapper):
    def step(self, action):
        observation, reward, *rest = self.env.step(action)
        return (observation, reward - 10 * self.env.now, *rest)


class Sets(gymnasium.Wrapper):
    """Every reward is 100 more than it was, because the task is told so."""

    def reset(self, **options):
        result = self.env.reset(**options)
        self.env.offset = 100.0
        return (self.env.seen(), *result[1:])


class Plans(gymnasium.Wrapper):
    """Looks ahead in copies of the task, by every way of copying, and adds what they pay."""

    def step(self, action):
        before = vars(self.env).copy()
        ahead = [copy.copy(self.env), copy.deepcopy(self.env), pickle.loads(pickle.dumps(self.env))]
        bonus = sum(one.step(action)[1] for one in ahead)
        assert vars(self.env) == before, "a copy's step has moved the task"
        kept = copy.deepcopy(vars(self.env))
        self.env.step(action)
        vars(self.env).update(kept)
        observation, reward, *rest = self.env.step(action)
        return (observation, reward + bonus, *rest)


class Checks(gymnasium.Wrapper):
    def __init__(self, env):
        super().__init__(env)
        self.task, self.names = env, set(dir(env))

    def step(self, action):
        assert self.env is self.task is self.unwrapped
        assert type(self.env) in (Paying, Inherited, Super, Recursive, Slotted)
        assert set(dir(self.env)) - self.names <= {"now"}
        observation, reward, *rest = self.env.step(action)
        return (observation, 2 * reward, *rest)


def episode(make, backend="gymnasium"):
    """The first episode of two copies; both must be the same."""
    environments = make_environments(make, 2, backend=backend)
    environments.reset([0, 1])
    counter, ended = EpisodeCounter(2), []
    while not ended:
        ended = counter.update(environments.step(np.zeros(2, np.int64)))
    environments.close()
    assert ended[0] == ended[1]
    return ended[0]


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
@pytest.mark.parametrize(
    ("wrapper", "given", "paid"),
    [
        (Reads, 21 - 210, 21),
        (Sets, 621, 621),
        # Every copy pays what the task pays. The step that is taken back was paid too, and is not the wrapper's reward.
        (Plans, 4 * 21, 2 * 21),
        (Checks, 42, 21),
    ],
)
def test_wrappers_that_read_set_copy_and_compare_the_task_work(wrapper, given, paid, backend):
    assert episode(lambda: wrapper(Paying()), backend) == (given, LIMIT, paid)


@pytest.mark.parametrize("kind", [Paying, Inherited, Super, Recursive, Slotted])
def test_a_reward_is_counted_once_and_the_class_is_left_as_it_was(kind):
    before = {each: vars(each).get("step") for each in (Paying, kind)}
    environments = make_environments(lambda: Checks(kind()), 2)
    bystander = kind()
    bystander.reset()
    assert bystander.step(0)[1] == 1.0
    environments.close()
    assert episode(lambda: Checks(kind())) == (42, LIMIT, 21)
    assert {each: vars(each).get("step") for each in (Paying, kind)} == before


@pytest.mark.parametrize("kind", [Paying, Inherited, Super])
def test_the_identity_of_a_runs_code_does_not_depend_on_who_records(kind):
    before = code_digest(kind)
    environments = make_environments(lambda: Checks(kind()), 2)
    assert "_proximo_stands_for" in vars(vars(kind)["step"])
    assert code_digest(kind) == before != ""
    environments.close()
    assert code_digest(kind) == before


def test_a_wrapper_may_make_a_new_task_in_its_reset():
    class Anew(gymnasium.Wrapper):
        def reset(self, **options):
            self.env = Paying()
            return self.env.reset(**options)

        def step(self, action):
            observation, reward, *rest = self.env.step(action)
            return (observation, reward + 1, *rest)

    assert episode(lambda: Anew(Paying())) == (21 + LIMIT, LIMIT, 21)


def test_wrappers_of_a_vector_environment_count_alike():
    def make():
        vector = SyncVectorEnv([Paying, Paying], autoreset_mode=AutoresetMode.NEXT_STEP)
        return gymnasium.wrappers.vector.TransformReward(vector, lambda rewards: -rewards)

    assert episode(make) == (-21, LIMIT, 21)


def trained(make, tmp_path, **settings):
    small = {"environments": 2, "rollout_length": 32, "steps": 256, "episodes": 2, "update": {"minibatch_size": 64}}
    return proximo.train(make, run=tmp_path / "run", progress="quiet", **{**small, **settings})


def test_a_run_shows_the_return_of_what_was_given_and_the_tasks_own(tmp_path):
    run = trained(lambda: gymnasium.wrappers.TransformReward(Paying(), lambda r: 1.0), tmp_path)
    names = ("last_100_training_return", "final_deterministic", "final_sampled", "best_checkpoint")
    assert {run.results[name] for name in names} == {float(LIMIT)}
    assert {run.results[f"{name}_task"] for name in names} == {21.0}
    rows = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert (rows[-1]["return"], rows[-1]["task_return"]) == (LIMIT, 21.0)
    assert "6.0 ± 0.0 (2 episodes; sampled: 6.0); the task's own" in three_numbers(run.results)["final deterministic"]


def test_one_return_is_shown_where_no_wrapper_changes_it(tmp_path):
    run = trained(lambda: gymnasium.wrappers.TimeLimit(Paying(), 5), tmp_path)
    assert run.results["last_100_training_return"] == 15.0
    assert not {value for name, value in run.results.items() if name.endswith("_task")} - {None}


def test_a_normalised_reward_has_the_tasks_own_beside_it(tmp_path):
    run = trained(lambda: gymnasium.wrappers.NormalizeReward(Paying()), tmp_path)
    assert run.results["last_100_training_return"] < 21.0 == run.results["last_100_training_return_task"]


def test_a_resumed_run_keeps_both_returns(tmp_path):
    def make():
        return gymnasium.wrappers.TransformReward(Paying(), lambda r: -r)

    trained(make, tmp_path, stop_at=128)
    resumed = trained(make, tmp_path)
    through = trained(make, tmp_path / "through")
    assert resumed.results["last_100_training_return_task"] == through.results["last_100_training_return_task"] == 21.0
    assert resumed.results["last_100_training_return"] == -21.0


class Snaps(gymnasium.Wrapper):
    """Keeps snapshots of the task, as planners do, and goes on in one of them."""

    def step(self, action):
        observation, reward, *rest = pickle.loads(cloudpickle.dumps(self.env)).step(action)
        assert self.env.step(action)[1] == reward
        return (observation, reward + 1, *rest)


def test_a_task_of_a_script_can_be_pickled_while_it_is_recorded():
    """A class of `__main__` is pickled by what it consists of."""
    own = {"__module__": "__main__", "step": lambda self, action: Paying.step(self, action)}
    kind = type("Scripted", (Paying,), own)
    assert episode(lambda: Snaps(kind())) == (21 + LIMIT, LIMIT, 21)
