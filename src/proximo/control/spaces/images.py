"""Which arrays are pictures, and which of their axes the channels: decided once, on a single frame."""

from __future__ import annotations

from typing import Literal

import gymnasium
import numpy as np

Layout = Literal["chw", "hwc", "hw", ""]
"""How the axes of a picture are ordered; empty where an array is none."""

SMALLEST_IMAGE = 8  # pixels a side; below it (MiniGrid's 7 x 7 codes) an array of bytes is a vector, not a picture


class StackedFrames(gymnasium.spaces.Box):
    """The space of several frames of a Box joined along an axis, which remembers what one frame was.

    Args:
        space: Of one frame.
        k: How many.

    Attributes:
        frame: The space of one frame.
    """

    def __init__(self, space: gymnasium.spaces.Box, k: int) -> None:
        self.frame = space
        axis = stack_axis(space.shape)
        low, high = (np.concatenate([as_frame(bound)] * k, axis) for bound in (space.low, space.high))
        super().__init__(low, high, dtype=space.dtype.type)


def layout_of(space: gymnasium.spaces.Box) -> Layout:
    """How the axes of one observation are ordered, from the frame where frames are stacked."""
    frame = space.frame if isinstance(space, StackedFrames) else space
    shape = frame.shape
    if frame.dtype != np.uint8 or len(shape) not in (2, 3) or min(sorted(shape)[-2:]) < SMALLEST_IMAGE:
        return ""
    if len(shape) == 2:
        return "hw" if frame is space else "chw"  # planes are stacked as channels
    return "chw" if channels_first(shape) else "hwc"


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether an array of three axes is taken for `[C, H, W]`: its first axis is the shortest. Else `[H, W, C]`."""
    return shape[0] < min(shape[1:])


def stack_axis(shape: tuple[int, ...]) -> int:
    """Along which axis of `as_frame` frames of a shape are joined: the channels, counted from the end."""
    if len(shape) == 2:
        return -3
    return -3 if len(shape) == 3 and channels_first(shape) else -1


def as_frame(array: np.ndarray, batch: int = 0) -> np.ndarray:
    """A frame, or a batch of them with `batch` leading axes, with an axis to stack planes along."""
    return np.expand_dims(array, batch) if array.ndim - batch == 2 else array
