"""Any space: what the policy reads, what the environment gets, and what is refused."""

import json

import control_tasks
import gymnasium
import numpy as np
import pytest
import torch
from control_runs import running
from games import Game, Masking
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from proximo.control.config import NetworkSettings
from proximo.control.loading import LoadedPolicy
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError

DEEP = spaces.Dict(
    {
        "gear": spaces.Discrete(3, start=-2),
        "hands": spaces.Tuple((spaces.MultiDiscrete([2, 3]), spaces.MultiBinary(4), spaces.Box(-1, 3, (2, 2)))),
        "grid": spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]), start=np.array([[0, 1], [-5, 7]])),
        "inner": spaces.Dict({"force": spaces.Box(np.float32(0.1), np.float32(0.3), (), np.float64)}),
    }
)
ACTIONS = {
    "discrete": spaces.Discrete(4, start=3),
    "multidiscrete": spaces.MultiDiscrete([2, 5], start=[1, -1]),
    "multibinary": spaces.MultiBinary((2, 2)),
    "box": spaces.Box(np.array([[-2.0, 0.1]], np.float32), np.array([[6.0, 0.3]], np.float32)),
    "half": spaces.Box(-0.1, 0.7, (2,), np.float16),
    "tuple": spaces.Tuple((spaces.Discrete(2), spaces.Tuple((spaces.Box(-1, 1, (1,)), spaces.Discrete(3))))),
    "dict": DEEP,
}


def one(tree, i):
    if isinstance(tree, dict):
        return {key: one(leaf, i) for key, leaf in tree.items()}
    return tuple(one(leaf, i) for leaf in tree) if isinstance(tree, tuple) else tree[i]


@st.composite
def action_spaces(draw, depth=2):
    leaf = st.one_of(
        st.builds(lambda n, s: spaces.Discrete(n, start=s), st.integers(1, 5), st.integers(-3, 3)),
        st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
        st.integers(1, 3).map(spaces.MultiBinary),
        st.builds(
            lambda low, width, shape, dtype: spaces.Box(float(dtype(low)), float(dtype(low + width)), shape, dtype),
            st.floats(-100, 100),
            st.floats(0.5, 1000),
            st.sampled_from([(), (1,), (2, 2)]),
            st.sampled_from([np.float32, np.float64]),
        ),
    )
    kind = draw(st.sampled_from(["leaf", "tuple", "dict"])) if depth else "leaf"
    if kind == "leaf":
        return draw(leaf)
    parts = draw(st.lists(action_spaces(depth - 1), min_size=1, max_size=3))
    return spaces.Tuple(parts) if kind == "tuple" else spaces.Dict({f"k{9 - i}": part for i, part in enumerate(parts)})


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    space=st.one_of(st.sampled_from(list(ACTIONS.values())), action_spaces()),
    squashed=st.booleans(),
    seed=st.integers(0, 99),
)
def test_every_action_is_one_of_the_space(space, squashed, seed):
    spec = ActionSpec.of(space, squashed)
    generator = torch.Generator().manual_seed(seed)
    outputs = 3.0 * torch.randn(6, spec.outputs, generator=generator)
    distribution = spec.distribution(outputs, torch.full((spec.continuous,), 1.0))
    for stored in (distribution.sample(generator), distribution.mode(), 1e6 * distribution.sample(generator).sign()):
        if stored.abs().max() > 1e5 and spec.continuous < spec.width:
            continue  # far out only where everything is continuous
        assert stored.shape == (6, spec.width)
        commands = spec.to_environment(stored.numpy())
        for i in range(6):
            assert space.contains(one(commands, i)), (one(commands, i), space)
    assert distribution.log_prob(distribution.sample(generator)).shape == (6,)


LARGEST = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("space", "given", "command"),
    [
        (spaces.Box(-np.inf, np.inf, (2,)), [-700.0, 3.5], [-700.0, 3.5]),
        (spaces.Box(-LARGEST, LARGEST, (2,)), [-700.0, 3.5], [-700.0, 3.5]),
        # One unit inside the only bound: 0 stands for 11 and for 2, and -1 and 1 for the bounds 10 and 3.
        (spaces.Box(10.0, np.inf, (2,)), [0.0, -5.0], [11.0, 10.0]),
        (spaces.Box(-np.inf, 3.0, (2,)), [0.0, 5.0], [2.0, 3.0]),
        (spaces.Box(np.float32([-np.inf, 2]), np.float32([4, 8])), [-9.0, 0.0], [-6.0, 5.0]),
        (spaces.Box(-np.inf, np.inf, (2,), np.int64), [-700.2, 3.7], [-700, 4]),
    ],
    ids=str,
)
def test_actions_without_bounds_are_taken_at_unit_scale(space, given, command):
    spec = ActionSpec.of(space)
    taken = spec.to_environment(np.array([given]))[0]
    assert taken.tolist() == command
    assert space.contains(taken)


def test_only_actions_at_a_bound_count_as_clipped():
    spec = ActionSpec.of(spaces.Box(np.float32([-np.inf, 0, -1]), np.float32([np.inf, np.inf, 1])))
    assert spec.clipped_fraction(np.array([[5.0, 5.0, 5.0], [-5.0, -5.0, 0.0]])) == pytest.approx(2 / 6)


def test_what_has_no_bounds_can_not_be_squashed():
    with pytest.raises(UserError, match="no bounds that actions could be squashed to"):
        ActionSpec.of(spaces.Box(0, np.inf, (1,)), squashed=True)


class Aim(gymnasium.Env):
    """Pays minus the square of the distance to 2.5, which lies outside of -1 and 1."""

    def __init__(self, low=-np.inf, high=np.inf):
        self.observation_space = spaces.Box(0, 1, (1,), np.float32)
        self.action_space = spaces.Box(low, high, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.ones(1, np.float32), {}

    def step(self, action):
        assert self.action_space.contains(action)
        return np.ones(1, np.float32), -float((action[0] - 2.5) ** 2), True, False, {}


@pytest.mark.parametrize("bounds", [(-np.inf, np.inf), (0.0, np.inf), (-np.inf, 3.0)])
def test_what_lies_outside_the_unit_interval_is_learnt_without_bounds(bounds):
    update = {"minibatch_size": 128, "epochs": 4}
    with running(lambda: Aim(*bounds), count=8, length=32, learning_rate=1e-2, update=update) as training:
        for _ in range(80):
            training.iterate()
        policy = LoadedPolicy(ControlPolicy.build(training.policy.describe()))
        policy.policy.load_state_dict(training.policy.state_dict())
    assert abs(policy.act(np.ones(1))[0] - 2.5) < 0.3


@pytest.mark.parametrize("kind", ACTIONS)
def test_every_choice_can_be_made(kind):
    """The environment's whole range is reached, no more and no less."""
    space = ACTIONS[kind]
    spec = ActionSpec.of(space)
    distribution = spec.distribution(torch.zeros(4000, spec.outputs), torch.zeros(spec.continuous))
    commands = spec.to_environment(distribution.sample(torch.Generator().manual_seed(0)).numpy())
    flat = [spaces.flatten(space, one(commands, i)) for i in range(4000)]
    drawn = [spaces.flatten(space, space.sample()) for _ in range(4000)]
    assert np.allclose(np.min(flat, 0), np.min(drawn, 0), atol=0.02)
    assert np.allclose(np.max(flat, 0), np.max(drawn, 0), atol=0.02)


@pytest.mark.parametrize("squashed", [False, True])
def test_minus_one_zero_and_one_are_the_lowest_the_middle_and_the_highest(squashed):
    space = spaces.Box(np.array([-2.0, 0.1, -7.0]), np.array([6.0, 0.3, -6.0]), dtype=np.float64)
    spec = ActionSpec.of(space, squashed)
    far = 50.0 if squashed else 1.0
    low, middle, high = spec.to_environment(np.array([[-far] * 3, [0.0] * 3, [far] * 3]))
    assert low == pytest.approx(space.low)
    assert middle == pytest.approx((space.low + space.high) / 2)
    assert high == pytest.approx(space.high)
    quarter = spec.to_environment(np.full((1, 3), np.arctanh(0.5) if squashed else 0.5))[0]
    assert quarter == pytest.approx(space.low + 0.75 * (space.high - space.low))
    assert spec.clipped_fraction(
        np.array([[2.0, 0.0, 0.5], [-5.0, 5.0, 0.1]]) * (3 if squashed else 1)
    ) == pytest.approx(0.5)


def test_the_columns_of_a_mixed_action_are_scored_one_by_one():
    spec = ActionSpec.of(ACTIONS["tuple"])
    outputs = torch.randn(7, spec.outputs)
    distribution = spec.distribution(outputs, torch.tensor([-0.3]))
    action = distribution.sample()
    first = outputs[:, :2].log_softmax(-1).gather(1, action[:, :1].long()).squeeze(1)
    second = torch.distributions.Normal(outputs[:, 2], np.exp(-0.3)).log_prob(action[:, 1])
    third = outputs[:, 3:].log_softmax(-1).gather(1, action[:, 2:].long()).squeeze(1)
    torch.testing.assert_close(distribution.log_prob(action), first + second + third, rtol=1e-5, atol=1e-5)


def test_a_mask_covers_every_choice_of_every_column():
    spec = ActionSpec.of(spaces.Tuple((spaces.Discrete(3), spaces.Box(-1, 1, (1,)), spaces.MultiDiscrete([2, 2]))))
    assert spec.mask_size == 7
    mask = torch.tensor([True, False, True, False, True, True, False]).expand(500, 7)
    sample = spec.distribution(torch.zeros(500, spec.outputs), torch.zeros(1), mask).sample()
    assert set(sample[:, 0].tolist()) == {0, 2}
    assert set(sample[:, 2].tolist()) == {1}
    assert set(sample[:, 3].tolist()) == {0}


@pytest.mark.parametrize("layout", ["hwc", "chw"])
def test_a_nested_observation_is_read_leaf_by_leaf(layout):
    env = control_tasks.Everything(layout=layout)
    space = env.observation_space
    spec = ObservationSpec.of(space)
    space.seed(5)
    samples = [space.sample() for _ in range(4)]
    read = spec.encode(
        gymnasium.vector.utils.concatenate(space, samples, gymnasium.vector.utils.create_empty_array(space, 4))
    )
    assert {name: x.shape for name, x in read.items() if name != "vector"} == {
        "pixels.camera/rgb": (4, 3, 16, 12),
        "pixels.eye.left": (4, 3, 16, 12),
        "pixels.eye.depth": (4, 1, 9, 9),
    }
    for i, sample in enumerate(samples):
        left = sample["eye"]["left"]
        assert np.array_equal(read["pixels.eye.left"][i], np.moveaxis(left, -1, 0) if layout == "hwc" else left)
        assert np.array_equal(read["pixels.eye.depth"][i, 0], sample["eye"]["depth"])
        # In the order of the space: a Dict sorts its keys.
        by_hand = {
            "arm/joint": sample["arm/joint"].reshape(-1),
            "lamps": sample["lamps"],
            "one slot": np.eye(3)[sample["one slot"][0]],
            "pair": np.concatenate([np.eye(2)[sample["pair"][0]], [sample["pair"][1]]]),
            "slots": np.concatenate([np.eye(2)[sample["slots"][0] - 1], np.eye(4)[sample["slots"][1]]]),
            "tool": np.eye(3)[sample["tool"] + 1],
        }
        order = [key for key in space.spaces if key in by_hand]
        assert np.allclose(read["vector"][i], np.concatenate([by_hand[key] for key in order]))
    assert read["vector"].dtype == np.float32
    assert spec.vector_size == read["vector"].shape[1] == 4 + 3 + 3 + 3 + 6 + 3


@pytest.mark.parametrize(
    ("shape", "pixels"),
    [
        ((12, 16), (1, 12, 16)),
        ((12, 16, 1), (1, 12, 16)),
        ((3, 12, 16), (3, 12, 16)),
        ((84, 84, 4), (4, 84, 84)),
        ((4, 84, 84), (4, 84, 84)),
        ((7, 7, 3), None),
    ],
)
def test_an_image_is_told_from_a_list_of_bytes(shape, pixels):
    spec = ObservationSpec.of(spaces.Box(0, 255, shape, np.uint8))
    assert spec.images == ({} if pixels is None else {"pixels": pixels})
    assert spec.vector_size == (0 if pixels else np.prod(shape))


def policies():
    env = control_tasks.Everything()
    simple = spaces.Box(-1, 1, (), np.float32)
    masked = spaces.Dict({"x": spaces.Discrete(4), "action_mask": spaces.MultiBinary(5)})
    yield env.observation_space, DEEP, {"memory": "gru"}, False
    yield simple, ACTIONS["box"], {"actions": "squashed", "log_std_range": (-1.0, 1.0)}, True
    yield masked, spaces.MultiDiscrete([2, 3]), {"hidden": (), "activation": "elu"}, True


@pytest.mark.parametrize("case", policies(), ids=["everything", "scalar", "masked"])
def test_a_description_in_json_builds_the_same_policy(case):
    observed, acted, network, normalised = case
    network = NetworkSettings(**network)
    actions = ActionSpec.of(acted, network.actions == "squashed")
    observations = ObservationSpec.of(observed, None, actions.mask_size)
    policy = ControlPolicy(observations, actions, network, normalize_observations=normalised, clip=3.0)
    description = policy.describe()
    again = ControlPolicy.build(json.loads(json.dumps(description)))
    assert again.describe() == description
    assert (again.observations, again.actions, again.settings) == (observations, actions, network)
    again.load_state_dict(policy.state_dict())
    sample = observed.sample()
    if isinstance(sample, dict) and "action_mask" in sample:
        sample["action_mask"][:] = [1, 0, 0, 1, 1]
    one_action, other = LoadedPolicy(policy).act(sample), LoadedPolicy(again).act(sample)
    assert acted.contains(one_action)
    assert repr(one_action) == repr(other)


@pytest.mark.parametrize("backend", ["gymnasium", "subprocess"])
def test_everything_at_once_runs(backend):
    options = {"action_space": DEEP}
    with running(control_tasks.everything, options=options, count=2, backend=backend, length=8) as training:
        metrics = training.iterate()
        assert metrics["grad_norm"] > 0
        loaded = LoadedPolicy(training.policy)
    sample = control_tasks.Everything().observation_space.sample()
    assert DEEP.contains(loaded.act(sample))
    sample["eye"]["left"] = np.zeros((5, 5, 3), np.uint8)
    with pytest.raises(UserError, match=r"eye\.left"):
        loaded.act(sample)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        (spaces.Dict({"a": spaces.Dict({"b": spaces.Text(4)})}), ["Text", "a.b", "not supported", "wrap"]),
        (spaces.Tuple(()), ["empty"]),
    ],
)
def test_an_action_space_that_can_not_be_used_is_refused(space, words):
    with pytest.raises(UserError) as caught:
        ActionSpec.of(space)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("space", "key", "words"),
    [
        (spaces.Dict({"note": spaces.Text(4)}), None, ["Text", "note", "not supported", "wrap"]),
        (spaces.Dict({}), None, ["empty"]),
        (
            spaces.Dict({"x": spaces.Discrete(2), "action_mask": spaces.MultiBinary(4)}),
            None,
            ["4 entries", "3 choices"],
        ),
        (spaces.Dict({"x": spaces.Discrete(2)}), "legal", ["'legal'", "not a key", "'x'"]),
        (spaces.Box(-1, 1, (2,)), "legal", ["'legal'", "not a key"]),
    ],
)
def test_an_observation_space_that_can_not_be_used_is_refused(space, key, words):
    with pytest.raises(UserError) as caught:
        ObservationSpec.of(space, key, 3)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("options", "words"), [({"size": 4}, ["4 entries", "3 choices"]), ({"where": ("step",)}, ["mask", "reset"])]
)
def test_a_mask_that_does_not_fit_is_refused(options, words):
    with pytest.raises(UserError) as caught, running(lambda: Masking(**options)) as training:
        training.iterate()
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize("mode", gymnasium.vector.AutoresetMode)
def test_a_mask_may_forbid_everything_where_the_game_is_over(mode):
    make = lambda: gymnasium.vector.SyncVectorEnv([Game] * 2, autoreset_mode=mode)  # noqa: E731
    with running(make, count=2) as training:
        training.iterate()
        assert set(training.recent.lengths) == {3}
        rollout = training.collector.collect()
    chosen = rollout.inputs["mask"].gather(2, rollout.action.long())
    assert chosen.all()
    assert not rollout.inputs["mask"].all()


def test_a_nature_cnn_refuses_images_that_it_would_shrink_to_nothing():
    observations = ObservationSpec.of(spaces.Box(0, 255, (20, 20, 3), np.uint8))
    with pytest.raises(UserError, match=r"20 x 20.*impala"):
        ControlPolicy(observations, ActionSpec.of(spaces.Discrete(2)), NetworkSettings(pixels="nature"))


@pytest.mark.parametrize("settings", [{"pixels": "impala"}, {"pixels": "nature"}])
def test_a_batch_of_sequences_of_images_is_read_as_its_images(settings):
    observations = ObservationSpec.of(spaces.Box(0, 255, (40, 40, 3), np.uint8))
    policy = ControlPolicy(observations, ActionSpec.of(spaces.Discrete(2)), NetworkSettings(**settings))
    images = torch.randint(0, 256, (3, 5, 3, 40, 40), dtype=torch.uint8)
    whole = policy.network.features({"pixels": images})
    parts = torch.stack([policy.network.features({"pixels": images[:, t]}) for t in range(5)], 1)
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    assert 0.05 < whole.pow(2).mean().sqrt() < 3, "neither vanishing nor shutting the gates of a memory"


def test_a_box_of_whole_numbers_gets_the_nearest_one():
    spec = ActionSpec.of(spaces.Box(0, 10, (2,), np.int64))
    # 0.55 lies at 5 + 5 * 0.55 = 7.75, -0.28 at 3.6: cutting off would give 7 and 3.
    assert spec.to_environment(np.array([[0.55, -0.28]])).tolist() == [[8, 4]]
