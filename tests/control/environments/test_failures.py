"""An environment that misbehaves is named, with its step and its last words."""

import gc
import multiprocessing
import os
import time

import gymnasium
import numpy as np
import pytest
from environments_for_tests import Misbehaving, step_often
from gymnasium import spaces

from proximo.control.environments import make_environments
from proximo.errors import UserError

ACTION = np.array([0.25, -0.5], np.float32)
BOTH = pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])

UNANSWERED = 10.0  # seconds, which only what hangs takes, however busy the machine is
HANGS = 1000  # seconds that a hanging environment sleeps: half of it is no question of how busy a machine is


def reset_and_step(environments):
    environments.reset([10, 11, 12])
    step_often(environments, np.tile(ACTION, (3, 1)))


def run(deed, backend="gymnasium", timeout=600.0):
    """Steps three environments, of which number 1 does `deed` at its step 3; returns the message and the batch."""
    made = make_environments(lambda: Misbehaving(deed, victim=11), 3, backend=backend, timeout=timeout)
    with pytest.raises(UserError) as caught:
        reset_and_step(made)
    started = time.monotonic()
    made.close()
    made.close()
    assert time.monotonic() - started < HANGS / 2, "closing waits for nobody"
    return str(caught.value)


@BOTH
def test_an_exception_brings_its_traceback(backend):
    message = run("raise", backend)
    assert "environment 1 of" in message
    assert "at its step 3 (last action [ 0.25 -0.5 ]): ZeroDivisionError: division by zero" in message
    assert "return 1 / 0" in message.splitlines()[-3] + message.splitlines()[-2]


@BOTH
def test_an_exception_in_reset_is_named(backend):
    message = run("raise in reset", backend)
    assert "environment 1 of" in message
    assert "reset" in message.splitlines()[0]
    assert "KeyError: 'no track'" in message


@pytest.mark.parametrize(("deed", "ending"), [("kill", "was killed by SIGKILL"), ("exit", "exited with code 7")])
def test_a_dead_child_is_named(deed, ending):
    message = run(deed, "subprocess")
    assert "environment 1 of" in message
    assert f"{ending} in step 3 (last action [ 0.25 -0.5 ])" in message


def test_a_hung_child_is_named_and_ended():
    started = time.monotonic()
    message = run("hang", "subprocess", timeout=UNANSWERED)
    assert time.monotonic() - started < HANGS / 2
    assert "environment 1 of" in message
    assert "did not answer within 10 s in step 3 (last action [ 0.25 -0.5 ])" in message


def test_no_child_outlives_a_failure():
    made = make_environments(lambda: Misbehaving("hang"), 2, backend="subprocess", timeout=UNANSWERED)
    made.reset([0, 1])
    children = [process.pid for process in made._environments._vector._vector.processes]
    with pytest.raises(UserError):
        step_often(made, np.zeros((2, 2), np.float32))
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_child_that_does_not_close_is_ended(monkeypatch):
    monkeypatch.setattr("proximo.control.environments.backends.subprocesses._GRACE", 0.2)

    class Clinging(Misbehaving):
        def close(self):
            if multiprocessing.parent_process() is not None:
                time.sleep(HANGS)

    made = make_environments(Clinging, 2, backend="subprocess")
    made.reset([0, 1])
    started = time.monotonic()
    made.close()
    assert time.monotonic() - started < HANGS / 2


def test_children_close_their_environments(tmp_path):
    class Tidy(Misbehaving):
        def close(self):
            (tmp_path / str(os.getpid())).touch()

    made = make_environments(Tidy, 2, backend="subprocess")
    made.reset([0, 1])
    made.close()
    assert len(list(tmp_path.iterdir())) == 3  # and the one that was made here to see what it is


@BOTH
def test_nan_is_located(backend):
    assert "environment 1 of" in (message := run("nan", backend))
    assert "returned nan in its observation [2] at its step 3" in message


@BOTH
def test_an_infinite_reward_is_located(backend):
    assert "environment 1 of" in (message := run("infinite reward", backend))
    assert "returned -inf in its reward at its step 3" in message


@BOTH
def test_a_wrong_shape_is_located(backend):
    assert "environment 1 of" in (message := run("wrong shape", backend))
    assert "of shape (5,) where (4,) was promised at its step 3" in message


@BOTH
def test_an_environment_that_cannot_be_made_brings_its_traceback(backend):
    def made():
        raise RuntimeError("no licence")

    with pytest.raises(UserError, match=r"could not be made: RuntimeError: no licence(.|\n)*Traceback"):
        make_environments(made, 2, backend=backend)


class Cameras(gymnasium.Env):
    """Nested observations, the depth image of which goes wrong in its second step."""

    observation_space = spaces.Dict(
        {
            "speed": spaces.Box(-1, 1, (2,), np.float64),
            "camera": spaces.Dict({"depth": spaces.Box(0, 1, (2, 3), np.float32), "kind": spaces.Discrete(3)}),
        }
    )
    action_space = spaces.Discrete(2)
    now = -1

    def reset(self, *, seed=None, options=None):
        return self.observe(), {"action_mask": np.ones(2, bool)}

    def step(self, action):
        return self.observe(), 0.0, False, False, {"action_mask": np.array([action == 0, action == 0])}

    def observe(self):
        self.now += 1
        depth = np.zeros((2, 3), np.float32)
        depth[1, 2] = np.inf if self.now == 2 else 0.0
        return {"speed": np.zeros(2), "camera": {"depth": depth, "kind": 1}}


def test_the_entry_of_a_nested_observation_is_named():
    made = make_environments(Cameras, 2)
    made.reset([0, 1])
    made.step(np.zeros(2, np.int64))
    with pytest.raises(UserError, match=r"returned inf in its observation 'camera\.depth' \[1, 2\] at its step 2"):
        made.step(np.zeros(2, np.int64))


def test_a_mask_that_allows_nothing_is_refused():
    made = make_environments(Cameras, 2)
    made.reset([0, 1])
    with pytest.raises(UserError, match=r"environment 1 of .* allowed no action at its step 1"):
        made.step(np.array([0, 1]))


class Moves(gymnasium.Env):
    """Two columns of choices with the mask in the observation or the infos; `masks` are those after each step."""

    action_space = spaces.MultiDiscrete([2, 3])

    def __init__(self, masks, held, lasts=99):
        self.masks, self.held, self.lasts, self.now = masks, held, lasts, 0
        x = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Dict({"x": x, "action_mask": spaces.MultiBinary(5)}) if held else x

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return self.observe(), self.info()

    def step(self, action):
        self.now += 1
        return self.observe(), 0.0, self.now == self.lasts, False, self.info()

    def mask(self):
        return np.array(self.masks[self.now] if self.now < len(self.masks) else [1] * 5, np.int8)

    def observe(self):
        x = np.zeros(1, np.float32)
        return {"x": x, "action_mask": self.mask()} if self.held else x

    def info(self):
        return {} if self.held else {"action_mask": self.mask()}


@pytest.mark.parametrize(
    ("held", "where"), [(True, r"observation\['action_mask'\]"), (False, r"info\['action_mask'\]")]
)
@pytest.mark.parametrize(
    ("mask", "column"), [([0, 0, 1, 1, 1], 0), ([1, 0, 0, 0, 0], 1), ([0, 0, 0, 0, 0], 0)], ids=str
)
def test_a_mask_that_closes_one_column_is_refused_wherever_it_stands(held, where, mask, column):
    made = make_environments(lambda: Moves([[1] * 5, [1, 0, 0, 0, 1], mask], held), 2)
    made.reset([0, 1])
    made.step(np.zeros((2, 2), np.int64))
    with pytest.raises(
        UserError, match=rf"environment 0 of .* no choice in column {column} .* at its step 2: its {where}"
    ):
        made.step(np.zeros((2, 2), np.int64))


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("mode", gymnasium.vector.AutoresetMode)
def test_where_an_episode_is_over_a_mask_may_close_everything(held, mode):

    def one():
        return Moves([[1] * 5, [1, 0, 0, 0, 1], [0] * 5], held, lasts=2)

    made = make_environments(lambda: gymnasium.vector.SyncVectorEnv([one] * 2, autoreset_mode=mode), 2)
    made.reset([0, 1])
    step_often(made, np.zeros((2, 2), np.int64), 7)


class Promises(gymnasium.Env):
    """Promises `space` and returns `good` until its step 3 and `bad` there."""

    action_space = spaces.Discrete(2)

    def __init__(self, space, good, bad):
        self.observation_space, self.good, self.bad, self.now = space, good, bad, 0

    def reset(self, *, seed=None, options=None):
        return self.good, {}

    def step(self, action):
        self.now += 1
        return self.bad if self.now == 3 else self.good, 0.0, False, False, {}


def broken_promise(space, good, bad, backend="gymnasium"):
    """What is said of three environments whose step 3 is `bad`."""
    made = make_environments(lambda: Promises(space, good, bad), 3, backend=backend)
    made.reset([0, 1, 2])
    step_often(made, np.zeros(3, np.int64), 2)
    with pytest.raises(UserError) as caught:
        made.step(np.zeros(3, np.int64))
    made.close()
    return str(caught.value)


BYTES = spaces.Box(0, 255, (9, 9), np.uint8)


@BOTH
@pytest.mark.parametrize("given", [np.float32, np.float64, np.int64])
def test_another_type_than_was_promised_is_named(backend, given):
    message = broken_promise(BYTES, np.zeros((9, 9), np.uint8), np.full((9, 9), 0.5, given), backend)
    assert message == (
        f"environment 0 of {__name__}:broken_promise.<locals>.<lambda> returned an observation of type "
        f"{np.dtype(given)} where uint8 was promised at its step 3: make it return what its observation space says"
    )


@BOTH
@pytest.mark.parametrize(("promised", "given"), [(np.float32, np.float64), (np.float64, np.float32)])
def test_floats_of_another_size_are_no_mistake(backend, promised, given):
    made = make_environments(
        lambda: Promises(spaces.Box(-1, 1, (2,), promised), np.zeros(2, given), np.zeros(2, given)), 2, backend=backend
    )
    assert made.reset([0, 1])[0].dtype == promised
    step_often(made, np.zeros(2, np.int64))
    made.close()


def test_a_choice_outside_its_space_is_located():
    assert "environment 0 of" in (message := broken_promise(spaces.Discrete(3, start=1), 3, 4))
    assert "returned 4 in its observation at its step 3" in message
    space = spaces.Dict({"slots": spaces.MultiDiscrete([2, 3])})
    message = broken_promise(space, {"slots": np.array([1, 2])}, {"slots": np.array([1, 3])})
    assert "returned 3 in its observation 'slots' [1] at its step 3" in message


def test_a_number_that_float32_can_not_hold_is_located():
    message = broken_promise(spaces.Box(-np.inf, np.inf, (2,), np.float64), np.zeros(2), np.array([0.0, -1e300]))
    assert "environment 0 of" in message
    assert "returned -1e+300 in its observation [1] at its step 3" in message
    assert "float32" in message


class Together(gymnasium.vector.VectorEnv):
    """Somebody's own batch of four, which does `deed` in its step 3 (or in its reset)."""

    num_envs, single_action_space = 4, spaces.Discrete(2)

    def __init__(self, deed, mode=gymnasium.vector.AutoresetMode.SAME_STEP):
        self.deed, self.now, self.metadata = deed, 0, {"autoreset_mode": mode}
        self.single_observation_space = spaces.Box(0, 9, (3,), np.uint8 if "float" in deed else np.float32)

    def reset(self, *, seed=None, options=None):
        if self.deed == "raise in reset":
            raise RuntimeError("boom")
        return np.zeros((4, 3), self.single_observation_space.dtype), {}

    def step(self, actions):
        self.now += 1
        bad = self.now == 3
        if bad and self.deed == "raise":
            raise RuntimeError("boom")
        observation, rows = np.zeros((4, 3), self.single_observation_space.dtype), 4
        if bad and self.deed == "floats":
            observation = observation + np.float32(0.5)
        if bad and self.deed == "shape":
            observation = np.zeros((4, 5), np.float32)
        if bad and self.deed == "rewards":
            rows = 5
        return observation, np.ones(rows), np.zeros(4, bool), np.zeros(4, bool), {}


@pytest.mark.parametrize("mode", gymnasium.vector.AutoresetMode)
@pytest.mark.parametrize(
    ("deed", "words"),
    [
        ("raise", "failed at its step 3: RuntimeError: boom\n"),
        ("raise in reset", "failed at its first reset: RuntimeError: boom\n"),
        ("floats", "observations of type float32 where uint8 was promised at its step 3"),
        ("shape", r"observations of shape (4, 5) where (4, 3) was promised at its step 3"),
        ("rewards", r"rewards of shape (5,), terminated (4,) and truncated (4,) at its step 3"),
    ],
)
def test_a_vector_environment_of_ones_own_is_named_with_its_step(deed, words, mode):
    made = make_environments(lambda: Together(deed, mode), 4)

    def reset_and_step_four():
        made.reset([0, 1, 2, 3])
        step_often(made, np.zeros(4, np.int64))

    with pytest.raises(UserError) as caught:
        reset_and_step_four()
    message = str(caught.value)
    assert "<lambda>" in message
    assert words in message
    if "raise" in deed:
        assert 'raise RuntimeError("boom")' in message  # its traceback


@pytest.mark.parametrize("apart", [False, True], ids=["together", "one by one"])
@pytest.mark.parametrize(
    ("final", "words"),
    [
        (np.full((4, 3), 0.5), "of type float64 where uint8 was promised at its step 1"),
        (np.zeros((4, 5), np.uint8), r"5,?\) where .* was promised at its step 1"),
    ],
)
def test_final_observations_are_checked_before_they_are_copied(final, words, apart):
    class Ends(Together):
        def step(self, actions):
            observation, reward, _, truncated, _ = super().step(actions)
            finals = final
            if apart:
                finals = np.empty(4, object)
                finals[:] = list(final)
            return observation, reward, ~truncated, truncated, {"final_obs": finals}

    made = make_environments(lambda: Ends("floats"), 4)
    made.reset([0, 1, 2, 3])
    with pytest.raises(UserError, match=words):
        made.step(np.zeros(4, np.int64))


def test_first_observations_of_another_type_are_checked_before_they_are_copied():
    class Ends(Together):
        def reset(self, *, seed=None, options=None):
            observation, infos = super().reset(seed=seed)
            return (observation + 0.5, infos) if options else (observation, infos)

        def step(self, actions):
            observation, reward, _, truncated, infos = super().step(actions)
            return observation, reward, ~truncated, truncated, infos

    made = make_environments(lambda: Ends("floats", gymnasium.vector.AutoresetMode.DISABLED), 4)
    made.reset([0, 1, 2, 3])
    with pytest.raises(UserError, match="first observations of type float64 where uint8 was promised at its step 1"):
        made.step(np.zeros(4, np.int64))


def test_large_finite_values_are_no_error():
    class Large(Misbehaving):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return np.full(4, 3e38, np.float32), {}

    observation, _ = make_environments(Large, 3).reset([0, 1, 2])
    assert (observation > 1e38).all()


class Dropped:
    """Part of a ring that only the garbage collector ends; notes the process in which it does."""

    def __init__(self, file):
        self.file, self.ring = file, self

    def __del__(self):
        with open(self.file, "a") as file:
            file.write(f"{os.getpid()} ")


def test_what_the_parent_dropped_is_not_collected_in_a_child(tmp_path):
    file, home = tmp_path / "processes", os.getpid()

    def make():
        if os.getpid() != home:
            gc.collect()
        return gymnasium.make("CartPole-v1")

    gc.disable()
    try:
        Dropped(file)
        environments = make_environments(make, 2, backend="subprocess")
    finally:
        gc.enable()
    environments.reset([0, 1])
    environments.close()
    gc.collect()
    assert file.read_text().split() == [str(home)]
