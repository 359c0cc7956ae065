"""A stack holds the frames of one episode, and of the state really reached."""

import gymnasium
import numpy as np
import pytest
import torch
from environments_for_tests import Counting, counting_vector
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from hidden_tasks import two_sided

import proximo
from proximo.control.environments import make_environments
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError


def stack_of(seed, episode, now, k):
    return [value for back in reversed(range(k)) for value in (seed, episode, max(now - back, 0))]


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("k", [2, 4])
def test_frames_are_of_one_episode(mode, k):
    environments = make_environments(lambda: counting_vector(3, mode), 3, frame_stack=k)
    assert environments.observation_space.shape == (3 * k,)
    observation, _ = environments.reset([0, 1, 6])
    kept = []
    for _ in range(30):
        assert observation.tolist() == [stack_of(*row[-3:], k) for row in observation]
        step = environments.step(np.zeros(3, np.int64))
        before, observation = observation, step.observation
        for i in np.flatnonzero(step.valid):
            seed, episode, now = before[i, -3:]
            assert step.final_observation[i].tolist() == stack_of(seed, episode, now + 1, k)
        kept.append((observation, observation.copy()))
    assert all(np.array_equal(array, copy) for array, copy in kept)


class Images(gymnasium.Env):
    """Pixel (h, w, c) of frame t is 10·t + c."""

    action_space = spaces.Discrete(2)

    def __init__(self, layout):
        self.layout, self.now = layout, 0
        channels = np.arange(3 if "C" in layout else 1, dtype=np.uint8)
        pixels = np.broadcast_to(channels, (8, 6, len(channels)))
        self.pixels = {"HWC": pixels, "CHW": pixels.transpose(2, 0, 1), "HW": pixels[..., 0]}[layout]
        self.observation_space = spaces.Box(0, 255, self.pixels.shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        self.now = 0
        return self.pixels.copy(), {}

    def step(self, action):
        self.now += 1
        return (self.pixels + 10 * self.now).astype(np.uint8), 0.0, False, False, {}


@pytest.mark.parametrize(("layout", "shape"), [("HWC", (8, 6, 9)), ("CHW", (9, 8, 6)), ("HW", (3, 8, 6))])
def test_images_are_joined_along_their_channels(layout, shape):
    environments = make_environments(lambda: Images(layout), 2, frame_stack=3)
    assert environments.observation_space.shape == shape
    assert environments.observation_space.dtype == np.uint8
    environments.reset([0, 1])
    for _ in range(4):
        observation = environments.step(np.zeros(2, np.int64)).observation
    assert observation.shape == (2, *shape)
    assert observation.dtype == np.uint8
    channels = observation[0, 0, 0] if layout == "HWC" else observation[0, :, 0, 0]
    expected = [20, 30, 40] if layout == "HW" else [20, 21, 22, 30, 31, 32, 40, 41, 42]
    assert channels.tolist() == expected


def test_nested_observations_are_refused():
    with pytest.raises(UserError, match="cannot be stacked"):
        make_environments(lambda: Counting("dict"), 2, frame_stack=2)


class Bytes(gymnasium.Env):
    """Bytes of any shape."""

    action_space = spaces.Discrete(2)

    def __init__(self, shape):
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("k", [2, 4, 13, 40])
@pytest.mark.parametrize(
    "shape", [(40, 84, 3), (36, 64, 3), (96, 96, 3), (3, 40, 84), (12, 16), (7, 9, 3), (7, 7), (16, 12, 1)], ids=str
)
def test_a_policy_reads_a_stack_as_it_reads_one_frame(shape, k):
    one = ObservationSpec.of(make_environments(lambda: Bytes(shape), 1).observation_space).parts[0]
    environments = make_environments(lambda: Bytes(shape), 1, frame_stack=k)
    spec = ObservationSpec.of(environments.observation_space)
    part = spec.parts[0]
    assert part.kind == one.kind
    assert part.env_shape == environments.observation_space.shape
    frames = [environments.reset([0])[0]] + [environments.step(np.zeros(1, np.int64)).observation for _ in range(k)]
    if part.kind == "pixels":
        assert part.shape == (one.shape[0] * k, *one.shape[1:])
        newest, before = (spec.encode(x)["pixels"] for x in (frames[-1], frames[-2]))
        assert np.array_equal(newest[:, : -one.shape[0]], before[:, one.shape[0] :])


def test_a_part_has_a_history_of_its_own_and_the_others_none():
    environments = make_environments(lambda: Counting("dict"), 3, history={"where": 3})
    assert environments.observation_space["where"].shape == (9,)
    observation, _ = environments.reset([0, 1, 6])
    for _ in range(30):
        assert observation["where"].tolist() == [stack_of(*row[-3:], 3) for row in observation["where"]]
        assert observation["step"].tolist() == observation["where"][:, -1].tolist()
        step = environments.step(np.zeros(3, np.int64))
        before, observation = observation["where"], step.observation
        for i in np.flatnonzero(step.valid):
            seed, episode, now = before[i, -3:]
            assert step.final_observation["where"][i].tolist() == stack_of(seed, episode, now + 1, 3)


@pytest.mark.parametrize(
    ("form", "history", "said"),
    [
        ("dict", {"step": 2}, "history of step cannot be kept"),
        ("dict", {"wher": 2}, "history names wher, .* there are step, where"),
        ("array", {"where": 2}, "without names"),
    ],
)
def test_what_has_no_history_is_named(form, history, said):
    with pytest.raises(UserError, match=said):
        make_environments(lambda: Counting(form), 2, history=history)


def test_a_policy_acts_on_single_observations_as_it_did_on_their_history(tmp_path):
    settings = {"environments": 2, "rollout_length": 16, "update": {"minibatch_size": 32}, "episodes": 2}
    groups = {"actor": ["where"], "critic": ["where", "step"]}
    run = proximo.train(
        counting_dict, run=tmp_path, steps=64, history={"where": 3}, observations=groups, progress="quiet", **settings
    )
    policy = proximo.load(run)
    inner = policy.policy
    assert inner.observations.vector_size == 9
    environments = make_environments(counting_dict, 1, history={"where": 3})
    observation, _ = environments.reset([6])
    policy.reset()
    for _ in range(40):
        encoded = {name: torch.from_numpy(x) for name, x in inner.encode(observation).items()}
        whole, value = inner.step_distribution(encoded).mode(), inner.values.from_units(inner.value(encoded))
        now = {"where": observation["where"][0, -3:], "step": observation["step"][0]}
        assert policy.value(now) == pytest.approx(float(value[0]), rel=1e-5)
        assert policy.act({"where": now["where"]}) == int(whole[0, 0])
        step = environments.step(np.zeros(1, np.int64))
        observation = step.observation
        if step.started[0]:
            policy.reset()
    told = proximo.export(run, "numpy", environment=counting_dict, observations=20).contract
    assert told["history"] == {"where": 3}
    assert [port["shape"] for port in told["inputs"]] == [[9]]


def test_the_critics_own_history_is_remembered_where_act_is_given_it(tmp_path):
    settings = {"environments": 2, "rollout_length": 16, "update": {"minibatch_size": 32}, "episodes": 1}
    history, groups = {"side": 3, "rest": 2}, {"actor": ["side"], "critic": ["side", "rest"]}
    call = {"steps": 32, "history": history, "observations": groups, "progress": "quiet", **settings}
    policy = proximo.load(proximo.train(two_sided, run=tmp_path, **call))
    inner = policy.policy
    environments = make_environments(two_sided, 1, history=history)
    observation, _ = environments.reset([6])
    for _ in range(5):
        encoded = {name: torch.from_numpy(x) for name, x in inner.encode(observation).items()}
        value = inner.values.from_units(inner.value(encoded))
        now = {"side": observation["side"][0, -1:], "rest": observation["rest"][0, -2:]}
        assert policy.value(now) == pytest.approx(float(value[0]), rel=1e-5)
        policy.act(now)
        observation = environments.step(np.zeros((1, 3), np.float32)).observation
    assert np.isfinite(policy.act({"side": now["side"]})).all()
    policy.act(now)
    with pytest.raises(UserError, match="last observations of rest, and act was given some without"):
        policy.value(now)
    policy.reset()
    assert np.isfinite(policy.value(now))
    policy.act({"side": now["side"], "rest": np.full(2, np.nan)})
    with pytest.raises(UserError, match="last observations of rest"):
        policy.value(now)


def counting_dict():
    return Counting("dict")
