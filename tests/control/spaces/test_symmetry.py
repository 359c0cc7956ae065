"""The mirror image of any space: vectors, choices, images, masks, stacked frames and actions of all kinds."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from proximo.control.spaces.actions import ActionSpec
from proximo.control.spaces.images import StackedFrames
from proximo.control.spaces.observations import ObservationSpec
from proximo.control.spaces.signed_permutation import SignedPermutation
from proximo.control.spaces.symmetry import declared
from proximo.errors import UserError

BOX = spaces.Box(-1, 1, (2,))
CPU = torch.device("cpu")


def symmetry(observation, action, tables, outputs):
    actions = ActionSpec.of(action)
    spec = ObservationSpec.of(observation, None, actions.mask_size, actions.choices)
    return declared({"": spec}, actions, tables, outputs, CPU), spec


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0 1", "x has 2 entries for 3 numbers"),
        ("0 1 3", "entry 2 is '3': give a number from 0 to 2"),
        ("0 one 2", "entry 1 is 'one'"),
        ("1 2 0", "entry 0 is 1 and entry 1 is 2"),
        ("0 2 -1", "entry 1 is 2 and entry 2 is -1.*give entry 2 as 1"),
        ("0 0 2", "entry 1 is 0 and entry 0 is 0"),
    ],
)
def test_what_is_no_reflection_is_refused_and_the_first_entry_named(text, why):
    with pytest.raises(UserError, match=why):
        SignedPermutation.parse(text, 3, "x")


def test_every_part_of_an_observation_is_mirrored():
    shown = spaces.Dict(
        {
            "gait": spaces.Discrete(3),
            "camera": spaces.Box(0, 255, (12, 12, 1), np.uint8),
            "state": spaces.Box(-9, 9, (3,)),
            "action_mask": spaces.MultiBinary(2),
        }
    )
    tables = {"gait": "0 2 1", "camera": "flip", "state": "-0 2 1"}
    mirror, spec = symmetry(shown, spaces.Discrete(2), tables, "1 0")
    picture = np.arange(144, dtype=np.uint8).reshape(1, 12, 12, 1)
    seen = {
        "gait": np.array([1]),
        "camera": picture,
        "state": np.float32([[1, 2, 3]]),
        "action_mask": np.int8([[1, 0]]),
    }
    other = {"gait": np.array([2]), "camera": picture[:, :, ::-1], "state": np.float32([[-1, 3, 2]])}
    other["action_mask"] = np.int8([[0, 1]])
    encoded, expected = ({k: torch.from_numpy(v.copy()) for k, v in spec.encode(o).items()} for o in (seen, other))
    image = mirror.inputs(encoded)
    assert image.keys() == expected.keys()
    assert all(torch.equal(image[name], x) for name, x in expected.items())
    assert all(torch.equal(mirror.inputs(image)[name], x) for name, x in encoded.items())


def test_each_of_several_frames_is_mirrored_as_one():
    mirror, _ = symmetry(StackedFrames(spaces.Box(-9, 9, (2,)), 2), BOX, {"vector": "1 0"}, "1 0")
    assert mirror.inputs({"vector": torch.tensor([[1.0, 2.0, 3.0, 4.0]])})["vector"].tolist() == [[2, 1, 4, 3]]


def test_actions_of_all_kinds_change_places_within_their_kind():
    action = spaces.Tuple((BOX, spaces.MultiDiscrete([2, 3, 3]), spaces.MultiBinary(2)))
    # Two Box columns; choices of 2, 3 and 3, of which the last two change places and the first its order; two switches.
    mirror, _ = symmetry(BOX, action, {"vector": "same"}, "-0 1 3 2 7 8 9 4 5 6 11 10")
    held = torch.tensor([[0.5, 0.25, 1, 0, 2, 1, 0]])
    assert mirror.action(held).tolist() == [[-0.5, 0.25, 0, 2, 0, 0, 1]]
    assert torch.equal(mirror.action(mirror.action(held)), held)


@pytest.mark.parametrize(
    ("action", "outputs", "why"),
    [
        (spaces.Box(np.float32([0]), np.float32([1])), "-0", "entry 0 is -0: the bounds"),
        (spaces.Box(np.float32([-1, -2]), np.float32([1, 2])), "1 0", "entry 0 is 1: the bounds"),
        (spaces.Discrete(2), "-0 1", "a choice has no sign"),
        (spaces.Tuple((spaces.Discrete(2), spaces.MultiBinary(1))), "2 1 0", "only alike ones"),
        (spaces.MultiDiscrete([2, 3]), "2 1 0 3 4", "take the place of as many"),
        (spaces.MultiDiscrete([2, 2]), "2 1 0 3", "stay together"),
    ],
)
def test_actions_whose_image_is_no_action_are_refused(action, outputs, why):
    with pytest.raises(UserError, match=why):
        symmetry(BOX, action, {"vector": "same"}, outputs)


def test_a_part_that_is_not_declared_is_named():
    shown = spaces.Dict({"state": BOX, "camera": spaces.Box(0, 255, (12, 12, 1), np.uint8), "gait": spaces.Discrete(2)})
    for tables, why in (
        ({"state": "same"}, "says nothing of camera"),
        ({"state": "same", "camera": "0 1", "gait": "same"}, "an image is flip"),
        ({"state": "same", "camera": "same", "gait": "-0 1"}, "entry 0 has a minus"),
        ({"stat": "same"}, "did you mean state"),
    ):
        with pytest.raises(UserError, match=why):
            symmetry(shown, BOX, tables, "same")
