"""A loaded policy refuses what it can not act on, and takes one observation as it takes a batch."""

import numpy as np
import pytest
import torch
from control_runs import running
from games import Game
from gymnasium import spaces

from proximo.control.config import NetworkSettings
from proximo.control.loading import LoadedPolicy
from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.images import StackedFrames
from proximo.control.spaces.observations import ObservationSpec
from proximo.errors import UserError


def untrained(observation, action=None, k=1, **network):
    """A policy with random weights for `k` frames of a space."""
    shown = StackedFrames(observation, k) if k > 1 else observation
    actions = ActionSpec.of(action or spaces.Discrete(2))
    network = NetworkSettings(**{"hidden": (8,), "pixels": "impala", **network})
    policy = ControlPolicy(ObservationSpec.of(shown, None, actions.mask_size), actions, network, frame_stack=k)
    # As it comes out of a checkpoint.
    again = ControlPolicy.build(policy.describe())
    again.load_state_dict(policy.state_dict())
    return LoadedPolicy(again)


VECTOR = spaces.Box(-np.inf, np.inf, (3,), np.float64)


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e300])
@pytest.mark.parametrize("method", ["act", "value"])
@pytest.mark.parametrize("k", [1, 3])
def test_what_is_no_number_is_not_acted_on(bad, method, k):
    policy = untrained(VECTOR, k=k)
    with pytest.raises(UserError, match=r"the observation \[2\] is"):
        getattr(policy, method)(np.array([0.0, 0.0, bad]))
    with pytest.raises(UserError, match=r"the observation \[1, 0\] is"):
        getattr(policy, method)(np.array([[0.0, 0.0, 0.0], [bad, 0.0, 0.0]]))
    assert policy.act(np.zeros(3)).shape == ()  # and nothing of it is remembered


def test_a_bad_number_in_a_part_is_named():
    policy = untrained(spaces.Dict({"speed": VECTOR, "lamp": spaces.Discrete(2)}))
    with pytest.raises(UserError, match=r"the observation at speed \[0\] is nan"):
        policy.act({"speed": np.array([np.nan, 0, 0]), "lamp": 1})


def test_a_policy_trained_with_masks_does_not_act_without():
    with running(Game, count=2, length=4) as training:
        training.iterate()
        description = training.policy.describe()
        policy = LoadedPolicy(ControlPolicy.build(description))
    with pytest.raises(UserError, match="give mask="):
        policy.act(np.zeros(1))
    assert policy.act(np.zeros(1), mask=np.array([0, 0, 1])) == 2
    assert policy.value(np.zeros(1)).shape == ()


@pytest.mark.parametrize("mask", [np.ones(4), np.ones((1, 5)), np.ones((2, 5)), np.bool_(True)])
def test_a_mask_of_another_shape_is_refused(mask):
    policy = untrained(VECTOR, spaces.MultiDiscrete([2, 3]))
    with pytest.raises(UserError, match=r"given is a mask (with|that can not be read).* each of its 5 choices"):
        policy.act(np.zeros(3), mask=mask)
    with pytest.raises(UserError, match=r"must have \(3, 5\)"):
        policy.act(np.zeros((3, 3)), mask=mask)


@pytest.mark.parametrize("mask", [[0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]])
def test_a_mask_that_leaves_nothing_is_refused(mask):
    policy = untrained(VECTOR, spaces.MultiDiscrete([2, 3]))
    with pytest.raises(UserError, match="leaves nothing to choose"):
        policy.act(np.zeros(3), mask=np.array(mask))
    with pytest.raises(UserError, match="leaves nothing to choose"):
        policy.act(np.zeros((2, 3)), mask=np.array([[1] * 5, mask]))
    held = untrained(spaces.Dict({"x": VECTOR, "action_mask": spaces.MultiBinary(5)}), spaces.MultiDiscrete([2, 3]))
    with pytest.raises(UserError, match="leaves nothing to choose"):
        held.act({"x": np.zeros(3), "action_mask": np.array(mask, np.int8)})


FRAMES = [
    spaces.Box(-1, 1, (3,), np.float32),
    spaces.Box(-1, 1, (4, 5), np.float32),
    spaces.Box(-1, 1, (3, 4, 5), np.float32),
    spaces.Box(0, 255, (16, 12), np.uint8),
    spaces.Box(0, 255, (1, 16, 12), np.uint8),
    spaces.Box(0, 255, (3, 16, 12), np.uint8),
    spaces.Box(0, 255, (16, 12, 3), np.uint8),
    spaces.Box(0, 255, (7, 9, 3), np.uint8),
]


@pytest.mark.parametrize("space", FRAMES, ids=[f"{space.shape}{space.dtype}" for space in FRAMES])
@pytest.mark.parametrize("k", [2, 4])
@pytest.mark.parametrize("network", [{}, {"memory": "gru", "memory_size": 4}], ids=["plain", "gru"])
def test_a_stack_of_frames_is_taken_one_by_one_or_in_batches(space, k, network):
    policy = untrained(space, spaces.Box(-1, 1, (2,), np.float32), k, **network)
    frames = [space.sample() for _ in range(k + 1)]
    ones = [(policy.value(frame), policy.value(frame), policy.act(frame)) for frame in frames]
    policy.reset()
    batches = [(policy.value(x[None]), policy.value(x[None]), policy.act(x[None])) for x in frames]
    for one, batch in zip(ones, batches, strict=True):
        assert one[0].shape == ()
        assert one[2].shape == (2,)
        assert batch[0].shape == (1,)
        assert batch[2].shape == (1, 2)
        assert one[0] == one[1] == batch[0][0] == batch[1][0]  # the critic moves nothing
        assert np.array_equal(one[2], batch[2][0])


@pytest.mark.parametrize("k", [1, 3])
def test_a_stack_is_the_one_that_was_trained_on(k):
    space = spaces.Box(0, 255, (16, 12, 3), np.uint8)
    policy = untrained(space, spaces.Box(-1, 1, (2,), np.float32), k)
    frames = [space.sample() for _ in range(k)]
    for frame in frames:
        action = policy.act(frame)
    stacked = policy.policy.observations.encode(np.concatenate(frames, -1)[None])
    inputs = {name: torch.from_numpy(x) for name, x in stacked.items()}
    expected = policy.policy.act(inputs, deterministic=True).action.numpy()
    assert np.array_equal(action, policy.policy.actions.to_environment(expected)[0])


@pytest.mark.parametrize(
    "answer",
    [lambda x: (x, {}), lambda x: [x, {}], lambda x: (x, 1.0, False, False, {}), lambda x: (x, 1.0, False, {})],
)
@pytest.mark.parametrize(
    ("space", "observation"),
    [
        (VECTOR, np.zeros(3)),
        (spaces.Tuple((VECTOR, spaces.Discrete(2))), (np.zeros(3), 1)),
        (spaces.Dict({"speed": VECTOR}), {"speed": np.zeros(3)}),
    ],
)
def test_all_that_reset_or_step_returned_is_no_observation(space, observation, answer):
    policy = untrained(space)
    for method in (policy.act, policy.value):
        with pytest.raises(UserError, match="info and all: give the observation only") as caught:
            method(answer(observation))
        assert "\n" not in str(caught.value)
    policy.act(observation)


def test_a_tuple_that_ends_with_a_dict_is_an_observation():
    policy = untrained(spaces.Tuple((VECTOR, spaces.Dict({"a": VECTOR}))))
    policy.act((np.zeros(3), {"a": np.zeros(3)}))


@pytest.mark.parametrize(
    "bad", ["abc", None, [None] * 3, [[1.0], [1.0, 2.0], 3.0], np.array(["1", "2", "3"]), {"a": 1}]
)
def test_what_is_no_array_of_numbers_is_refused(bad):
    with pytest.raises(UserError):
        untrained(VECTOR).act(bad)


def test_a_loaded_policy_reads_masks_as_training_does():
    policy = untrained(spaces.Box(-1, 1, (3,)), spaces.MultiDiscrete([2, 3]))
    only = [[0, 1], [0, 0, 1]]
    assert policy.act(np.zeros(3), mask=only).tolist() == [1, 2]
    assert policy.act(np.zeros((2, 3)), mask=[only, [1, 0, 1, 0, 0]]).tolist() == [[1, 2], [0, 0]]
    with pytest.raises(UserError, match="given is a mask with 2 entries"):
        policy.act(np.zeros(3), mask=[0, 1])
    with pytest.raises(UserError, match=r"the masks of 2 observations must have \(2, 5\)"):
        policy.act(np.zeros((2, 3)), mask=[only])
    policy.seed(10**30)
    policy.seed(-1)


def test_a_tensor_with_a_gradient_is_a_vector_like_any_other():
    policy = untrained(VECTOR)
    numbers = np.array([0.1, -0.2, 0.3])
    for observation in (numbers, np.stack([numbers, -numbers])):
        expected = policy.act(observation, deterministic=True)
        assert np.array_equal(policy.act(torch.tensor(observation, requires_grad=True), deterministic=True), expected)
