"""Environments that reuse buffers, return views, fail when they are closed, or describe themselves oddly."""

import types

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import proximo
from proximo.control.environments import make_environments
from proximo.control.evaluation.results import evaluate_run
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.training import setup
from proximo.errors import UserError

BOTH = pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
SMALL = {"environments": 2, "rollout_length": 32, "steps": 128, "episodes": 2, "update": {"minibatch_size": 64}}
ONE_FOR_ALL = np.zeros(2, np.float32)


class Buffered(gymnasium.Env):
    """Counts to 3 in one buffer: its own, or one that all copies share."""

    action_space = spaces.Discrete(2)

    def __init__(self, form="array", shared=False):
        self.form = form
        self.buffer = ONE_FOR_ALL if shared else np.zeros(2, np.float32)
        box = spaces.Box(-100, 100, (2,), np.float32)
        self.observation_space = {
            "array": box,
            "dict": spaces.Dict({"a": box}),
            "tuple": spaces.Tuple((box, spaces.Discrete(9))),
        }[form]

    def reset(self, *, seed=None, options=None):
        self.first = 0 if seed is None else seed
        self.now = 0
        return self.seen(), {}

    def step(self, action):
        self.now += 1
        return self.seen(), 1.0, False, self.now == 3, {}

    def seen(self):
        self.buffer[:] = (self.first, self.now)
        return {"array": self.buffer, "dict": {"a": self.buffer}, "tuple": (self.buffer, self.now)}[self.form]


def array_of(observation):
    return {dict: lambda: observation["a"], tuple: lambda: observation[0]}.get(type(observation), lambda: observation)()


@BOTH
@pytest.mark.parametrize("form", ["array", "dict", "tuple"])
@pytest.mark.parametrize("shared", [False, True])
def test_a_buffer_that_is_used_again_does_not_change_what_was_seen(backend, form, shared):
    environments = make_environments(lambda: Buffered(form, shared), 2, backend=backend)
    observation, _ = environments.reset([7, 8])
    assert array_of(observation).tolist() == [[7, 0], [8, 0]]
    seen = [environments.step(np.zeros(2, np.int64)) for _ in range(4)]
    environments.close()
    assert [array_of(step.final_observation)[:, 1].tolist() for step in seen] == [[1, 1], [2, 2], [3, 3], [1, 1]]
    assert [array_of(step.observation)[:, 1].tolist() for step in seen] == [[1, 1], [2, 2], [0, 0], [1, 1]]
    assert array_of(seen[1].observation)[:, 0].tolist() == [7, 8]


class Views(Buffered):
    """Mirrored and read-only observations, images among them."""

    def __init__(self, kind="mirrored"):
        super().__init__()
        self.kind = kind
        if kind == "image":
            self.observation_space = spaces.Box(0, 255, (36, 36, 3), np.uint8)

    def seen(self):
        if self.kind == "image":
            return np.full((36, 36, 3), self.now, np.uint8)[::-1, ::-1]
        array = np.array([self.now, 5.0], np.float32)[::-1]
        if self.kind == "read-only":
            array = array.copy()
            array.flags.writeable = False
        return array


class Mirrored(SyncVectorEnv):
    def reset(self, **options):
        observation, infos = super().reset(**options)
        return observation[:, ::-1], infos

    def step(self, actions):
        observation, reward, terminated, *rest = super().step(actions)
        return observation[:, ::-1], reward[::-1], terminated[::-1], *rest


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Views("mirrored"),
        lambda: Views("read-only"),
        lambda: Views("image"),
        lambda: Mirrored([Buffered] * 2, autoreset_mode=AutoresetMode.NEXT_STEP),
        lambda: Mirrored([Buffered] * 2, autoreset_mode=AutoresetMode.NEXT_STEP, copy=False),
    ],
)
def test_views_are_learnt_from(make, tmp_path):
    run = proximo.train(make, run=tmp_path / "run", progress="quiet", **SMALL)
    assert run.results["final_deterministic"] == 3.0


class Clinging(Buffered):
    """Can not be closed."""

    error: BaseException = RuntimeError("device busy")

    def close(self):
        raise self.error


class Exiting(Clinging):
    error = SystemExit("bye")


def clinging():
    return Clinging()


def clinging_vector():
    class Vector(SyncVectorEnv):
        def close_extras(self, **options):
            raise RuntimeError("device busy")

    return Vector([Buffered] * 2, autoreset_mode=AutoresetMode.NEXT_STEP)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("settings", [{}, {"backend": "subprocess"}, {"evaluate_every": 64}])
@pytest.mark.parametrize("make", [clinging, Exiting, clinging_vector])
def test_nothing_is_lost_to_an_environment_that_can_not_be_closed(make, settings, tmp_path, capsys):
    if make is clinging_vector and "backend" in settings:
        pytest.skip("a whole batch has no processes")
    run = proximo.train(make, run=tmp_path / "run", progress="quiet", **SMALL, **settings)
    assert run.results["final_deterministic"] == 3.0
    assert (run.path / "results.json").exists()
    told = capsys.readouterr().err
    assert "failed while it was closed, which costs nothing of the run: " in told
    assert "Traceback" not in told
    again = proximo.train(make, run=tmp_path / "run", progress="quiet", **SMALL, **settings)
    assert again.finished_before


def test_evaluate_survives_an_environment_that_can_not_be_closed(tmp_path):
    run = proximo.train(f"{__name__}:clinging", run=tmp_path / "run", progress="quiet", **SMALL)
    assert evaluate_run(run.path, 2)["final_deterministic"] == 3.0


@BOTH
@pytest.mark.parametrize(
    "metadata",
    [None, {}, [], "human", types.MappingProxyType({"render_fps": 3}), {"autoreset_mode": 5}, {3: object}],
    ids=str,
)
def test_metadata_may_be_anything(metadata, backend):
    class Odd(Buffered):
        pass

    Odd.metadata = metadata
    before = repr(metadata)
    environments = make_environments(Odd, 2, backend=backend)
    environments.reset([0, 1])
    assert not environments.step(np.zeros(2, np.int64)).truncated.any()
    environments.close()
    assert repr(Odd.metadata) == before, "it is the user's, and stays as it is"


@pytest.mark.parametrize("metadata", [None, [], "NextStep", {"autoreset_mode": []}])
def test_a_vector_environment_with_odd_metadata_is_asked_for_its_mode(metadata):
    vector = SyncVectorEnv([Buffered] * 2)
    vector.metadata = metadata
    with pytest.raises(UserError, match="does not say how it resets"):
        make_environments(lambda: vector, 2)


def test_many_choices_are_encoded_one_by_one():
    spec = ObservationSpec.of(spaces.MultiDiscrete([100_000, 3], start=[5, -1]))
    seen = spec.encode(np.array([[5, 1], [100_004, -1]]))["vector"]
    assert seen.shape == (2, 100_003)
    assert [np.flatnonzero(row).tolist() for row in seen] == [[0, 100_002], [99_999, 100_000]]
    assert set(seen[seen != 0].tolist()) == {1.0}


class Many(Buffered):
    def __init__(self):
        super().__init__()
        self.observation_space = self.action_space = spaces.Discrete(100_000)

    def seen(self):
        return self.now * 30_000


def test_a_hundred_thousand_choices_are_trained(tmp_path):
    few = {"environments": 1, "rollout_length": 8, "steps": 8, "episodes": 1, "update": {"minibatch_size": 8}}
    run = proximo.train(Many, run=tmp_path / "run", progress="quiet", network={"hidden": (4,)}, replay_mb=0, **few)
    assert run.results["final_deterministic"] == 3.0


def test_a_rollout_that_memory_can_not_hold_is_refused_before_it_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(setup, "available_memory", lambda: 50.0)
    with pytest.raises(UserError, match=r"100,000 outputs of the policy needs 0\.1 GB, and 0\.0 GB are free"):
        proximo.train(Many, run=tmp_path / "run", progress="quiet", **SMALL)
    assert not (tmp_path / "run").exists()


class Spaceless(gymnasium.Env):
    def reset(self, *, seed=None, options=None):
        return np.zeros(1), {}


@pytest.mark.parametrize("spaces_", [{}, {"observation_space": None}, {"observation_space": [1]}])
@BOTH
def test_an_environment_says_what_it_takes_and_gives(spaces_, backend):
    kind = type("Odd", (Spaceless,), spaces_)
    with pytest.raises(UserError, match=r"has (no|a builtins.list as) observation_space: set it to a space") as caught:
        make_environments(kind, 2, backend=backend)
    assert "\n" not in str(caught.value)
