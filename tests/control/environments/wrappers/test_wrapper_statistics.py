"""What a user's own NormalizeObservation has learnt belongs to the policy: saved, resumed, evaluated and carried on."""

import multiprocessing
import types

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.utils import RunningMeanStd

import proximo
from proximo.control.environments import make_environments
from proximo.control.environments.wrappers import statistics as learnt
from proximo.control.environments.wrappers.statistics import pooled
from proximo.control.evaluation.results import evaluate_run
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import load_checkpoint

BOTH = pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
SMALL = {"environments": 2, "rollout_length": 32, "steps": 512, "episodes": 2, "update": {"minibatch_size": 64}}


class Far(gymnasium.Env):
    """Observes numbers around 100 and 1,000; pays where the action is the first number's side."""

    observation_space, action_space = spaces.Box(-1e4, 1e4, (2,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.now = 0
        return self.seen(), {}

    def seen(self):
        self.draw = self.np_random.normal(size=2)
        return (np.array([100.0, 1000.0]) + self.draw * [1.0, 10.0]).astype(np.float32)

    def step(self, action):
        self.now += 1
        reward = float(action == (self.draw[0] > 0))
        return self.seen(), reward, False, self.now == 16, {}


def normalised():
    return gymnasium.wrappers.NormalizeReward(gymnasium.wrappers.NormalizeObservation(Far()))


def train(tmp_path, name="run", make=f"{__name__}:normalised", **settings):
    return proximo.train(make, run=tmp_path / name, progress="quiet", **{**SMALL, **settings})


def final(run):
    """Everything in the last checkpoint but torch's own stream, which is the process's and not the run's."""
    tensors = load_checkpoint(run.path / "checkpoints" / "final")[0]
    return {name: x for name, x in tensors.items() if name != "random/torch"}


def test_statistics_of_copies_are_those_of_all_that_they_saw_together():
    generator = np.random.default_rng(0)
    parts = [generator.normal(i, 1 + i, (50 * (i + 1), 3)) for i in range(3)]
    copies = {
        "1.W.rms.mean": np.stack([x.mean(0) for x in parts]),
        "1.W.rms.var": np.stack([x.var(0) for x in parts]),
        "1.W.rms.count": np.array([float(len(x)) for x in parts]),
    }
    together, every = pooled(copies), np.concatenate(parts)
    assert together["1.W.rms.mean"] == pytest.approx(every.mean(0)[None])
    assert together["1.W.rms.var"] == pytest.approx(every.var(0)[None])
    assert together["1.W.rms.count"].tolist() == [300.0]


@BOTH
def test_copies_give_and_take_their_own_statistics(backend):
    first = make_environments(normalised, 2, backend=backend)
    first.reset([0, 1])
    for _ in range(40):
        first.step(np.zeros(2, np.int64))
    held = first.statistics()
    assert held["1.NormalizeObservation.obs_rms.count"].tolist() == pytest.approx([43, 43], abs=0.01)  # 2 resets more
    assert held["1.NormalizeObservation.obs_rms.mean"].shape == (2, 2)
    second = make_environments(normalised, 2, backend=backend)
    second.take_statistics(held, fixed=True)
    second.reset([2, 3])
    second.step(np.zeros(2, np.int64))
    again = second.statistics()
    assert all(np.array_equal(held[name], again[name]) for name in held if "rms" in name)
    for environments in (first, second):
        environments.close()


@BOTH
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, backend):
    through = train(tmp_path, "through", backend=backend, checkpoint_every=192)
    for stop_at in (64, 256):  # before and after a reset point
        train(tmp_path, f"{stop_at}", backend=backend, checkpoint_every=192, stop_at=stop_at)
        resumed = train(tmp_path, f"{stop_at}", backend=backend, checkpoint_every=192)
        assert resumed.results["exact_resume"]
        one, other = final(through), final(resumed)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
        assert any(name.startswith("wrappers/policy/1.NormalizeObservation") for name in one)


def test_what_was_learnt_is_saved_where_a_signal_to_a_whole_job_has_ended_the_environments_too(tmp_path):
    whole = final(train(tmp_path, "whole", backend="subprocess"))
    trainer = proximo.Trainer(
        f"{__name__}:normalised", run=tmp_path / "run", progress="quiet", backend="subprocess", **SMALL
    )
    rows = iter(trainer)
    next(rows)
    for process in multiprocessing.active_children():
        process.kill()
        process.join()
    trainer.stop()
    assert list(rows) == []
    resumed = final(train(tmp_path, backend="subprocess"))
    assert all(resumed[name].equal(x) for name, x in whole.items())


def test_a_share_for_each_copy_is_together_what_was_shared_out():
    together = {"a.mean": np.array([[3.0, 4.0]]), "a.var": np.array([[1.0, 2.0]]), "a.count": np.array([90.0])}
    each = learnt.shared_out(together, 3)
    copies = {name: np.repeat(x, 3, axis=0) for name, x in each.items()}
    for name, x in pooled(copies).items():
        np.testing.assert_allclose(x, together[name])


def test_evaluation_and_a_loaded_policy_see_what_training_saw(tmp_path):
    run = train(tmp_path, steps=2048)
    policy = proximo.load(run.path)
    carried = policy.policy.wrappers
    assert carried["1.NormalizeObservation.obs_rms.mean"] == pytest.approx(np.array([[100.0, 1000.0]]), rel=0.01)
    assert carried["1.NormalizeObservation.obs_rms.var"] == pytest.approx(np.array([[1.0, 100.0]]), rel=0.2)
    env = normalised()
    policy.carry_into(env)
    observation, _ = env.reset(seed=3)
    inner = env.unwrapped.draw  # standard normal numbers are what a normalised observation is
    assert observation == pytest.approx(inner, abs=0.2)
    seen = evaluate_run(run.path, 4)
    for name in ("final_deterministic", "best_checkpoint"):  # 16 are best, and 8 what guessing pays
        assert min(seen[f"{name}_task"], run.results[f"{name}_task"]) > 14.0
    assert proximo.load(run.path, "best").policy.wrappers.keys() == carried.keys()
    with pytest.raises(
        UserError, match="not wrapped as in training, where NormalizeObservation, NormalizeReward learnt"
    ):
        policy.carry_into(Far())


def test_evaluation_copies_have_the_training_copies_statistics(tmp_path, monkeypatch):
    taken = []
    write = learnt.write
    monkeypatch.setattr(
        learnt, "write", lambda *given, **named: (taken.append((given[1], named)), write(*given, **named))
    )
    run = train(tmp_path, make=normalised)
    mean = "1.NormalizeObservation.obs_rms.mean"
    assert np.array_equal(taken[0][0][mean], final(run)[f"wrappers/policy/{mean}"].numpy())
    assert {named["fixed"] for _, named in taken} == {True}
    assert len(taken) == 2 * 3  # two copies, three policies


def test_a_vector_wrappers_statistics_are_carried_alike(tmp_path):
    def make():
        vector = SyncVectorEnv([Far, Far], autoreset_mode=AutoresetMode.NEXT_STEP)
        return gymnasium.wrappers.vector.NormalizeObservation(vector)

    through = train(tmp_path, "through", make)
    train(tmp_path, "parts", make, stop_at=128)
    resumed = train(tmp_path, "parts", make)
    assert resumed.results["exact_resume"]
    one, other = final(through), final(resumed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert "wrappers/policy/1.NormalizeObservation.obs_rms.mean" in one


def test_it_is_said_when_training_begins_and_only_where_it_is_so(tmp_path, capsys):
    proximo.train(normalised, run=tmp_path / "a", progress="plain", stop_at=64, **SMALL)
    said = capsys.readouterr().err
    assert "NormalizeObservation in the environment learns statistics that a loaded policy needs" in said
    assert "normalizers.observations = true in its place" in said
    proximo.train(Far, run=tmp_path / "b", progress="plain", stop_at=64, **SMALL)
    assert "learns statistics" not in capsys.readouterr().err
    assert not make_environments(Far, 1).statistics()


def test_an_environment_that_is_made_already_goes_on_learning(tmp_path):
    env = normalised()
    proximo.train(env, run=tmp_path / "run", progress="quiet", **{**SMALL, "environments": 1, "rollout_length": 64})
    assert env.env.update_running_mean
    before = float(env.env.obs_rms.count)
    env.reset()
    assert float(env.env.obs_rms.count) == before + 1


class Learning(gymnasium.ObservationWrapper):
    """A normaliser of the user's own, which keeps what it learns in one of several ways."""

    def __init__(self, env, kind):
        super().__init__(env)
        self.kind = kind
        moments = RunningMeanStd(shape=(2,))
        if kind == "itself":
            self.mean, self.var, self.count = np.zeros(2), np.ones(2), 1e-4
        elif kind == "in a dict":
            self.rms = {"all": moments}
        elif kind == "in a list":
            self.rms = [moments]
        else:
            self.rms = types.SimpleNamespace(mean=torch.zeros(2), var=torch.ones(2), count=torch.tensor(1.0))

    def observation(self, observation):
        if self.kind == "itself":
            self.count += 1
            self.mean = self.mean + (observation - self.mean) / self.count
        elif self.kind == "tensors":
            self.rms.count += 1
            self.rms.mean += (torch.from_numpy(observation) - self.rms.mean) / self.rms.count
        else:
            next(iter(self.rms.values() if isinstance(self.rms, dict) else self.rms)).update(observation[None])
        return observation


@pytest.mark.parametrize("kind", ["itself", "in a dict", "in a list", "tensors"])
def test_what_a_wrapper_of_ones_own_learns_is_found_wherever_it_keeps_it(kind):
    made = Learning(gymnasium.make("MountainCarContinuous-v0"), kind)
    made = gymnasium.wrappers.TransformObservation(made, lambda x: x, made.observation_space)
    assert "Learning in the environment learns statistics" in learnt.notes(made)[0]
    made.reset(seed=0)
    for _ in range(5):
        made.step(np.ones(1, np.float32))
    seen = learnt.read(made)
    assert {name.rpartition(".")[2] for name in seen} == {"mean", "var", "count"}
    other = Learning(gymnasium.make("MountainCarContinuous-v0"), kind)
    other = gymnasium.wrappers.TransformObservation(other, lambda x: x, other.observation_space)
    learnt.write(other, {name: x[None] for name, x in seen.items()}, 0, fixed=True)
    again = learnt.read(other)
    assert all(np.allclose(seen[name], again[name]) for name in seen)
    assert any(np.abs(x).max() > 0.1 for name, x in seen.items() if name.endswith("mean"))
