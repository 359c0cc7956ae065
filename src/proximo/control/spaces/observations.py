"""From an environment's observation to what a network reads: one float vector, images, and an action mask."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np

from proximo.control.spaces.images import Layout, StackedFrames, layout_of
from proximo.control.spaces.leaves import Path, leaves, place
from proximo.control.spaces.masks import flat_masks, is_padded
from proximo.control.spaces.numbers import is_wide
from proximo.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Part:
    """One leaf of an observation space."""

    path: Path
    kind: Literal["vector", "one_hot", "pixels", "mask"]
    shape: tuple[int, ...]
    """Of the leaf; pixels: (channels, height, width)."""
    choices: tuple[int, ...] = ()
    """one_hot: how many there are in each column; mask: of the action, where the mask is a padded table."""
    start: tuple[int, ...] = ()
    """one_hot: the smallest value of each column."""
    layout: Layout = ""
    """pixels: how the environment orders the axes."""
    frame: tuple[int, ...] = field(default=(), compare=False)
    """Shape of one frame as the environment gives it, where several are stacked."""

    def __str__(self) -> str:
        """For a message: its name and its shape."""
        kinds = {"vector": "", "one_hot": "choices ", "pixels": "an image ", "mask": "a mask "}
        what = f"{kinds[self.kind]}{list(self.choices if self.kind == 'one_hot' else self.shape)}"
        return f"{self.key} {what}" if self.key else what

    @property
    def env_shape(self) -> tuple[int, ...]:
        """Shape of one observation as the environment gives it."""
        channels, *area = self.shape if self.kind == "pixels" else (0,)
        return {"chw": self.shape, "hwc": (*area, channels), "hw": tuple(area)}.get(self.layout, self.shape)

    @property
    def size(self) -> int:
        """Numbers it adds to the vector."""
        return sum(self.choices) if self.kind == "one_hot" else int(np.prod(self.shape))

    @property
    def key(self) -> str:
        """What a user calls it: `camera`, `robot.lidar`; empty where the observation is no Dict or Tuple."""
        return ".".join(map(str, self.path))

    @property
    def encoded_shape(self) -> tuple[int, ...]:
        """Of one observation as a network reads it."""
        return (self.size,) if self.kind == "one_hot" else self.shape


@dataclass(frozen=True)
class ObservationSpec:
    """How observations of one space are encoded. `encode` gives a dict of arrays with leading axis `[N]`:

    `vector` float32 `[N, D]` (everything that is not an image, in the space's order), `pixels` or `pixels.KEY` uint8
    `[N, C, H, W]`, `mask` bool `[N, K]`.
    """

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        """For a message: `state [3], camera, an image [3, 64, 64]`."""
        return ", ".join(map(str, self.parts))

    @classmethod
    def of(
        cls,
        space: gymnasium.Space,
        mask_key: str | None = None,
        mask_size: int = 0,
        columns: tuple[int, ...] | None = None,
    ) -> "ObservationSpec":
        """The encoding of a space.

        Args:
            space: of one environment.
            mask_key: key of a Dict space that holds the action mask; None finds `action_mask`.
            mask_size: choices that a mask covers, to check it.
            columns: the choices of each column of the action, where that is known.

        Raises:
            UserError: a space that can not be encoded, or a mask that is not there or not of that size.
        """
        keys = set(space.spaces) if isinstance(space, gymnasium.spaces.Dict) else set()
        if mask_key is not None and mask_key not in keys:
            raise UserError(
                f"mask_key = {mask_key!r} is not a key of the observation {space}; its keys: {sorted(keys)}"
            )
        if columns == () and (mask_key or "action_mask") in keys:
            raise UserError(
                f"the observation has the action mask {mask_key or 'action_mask'!r}, and the action has no choices "
                "that it could forbid: leave it out, or make the action Discrete or MultiDiscrete"
            )
        mask_key = mask_key or ("action_mask" if "action_mask" in keys and mask_size else None)
        parts = [
            _mask_part(path, leaf, columns or ()) if path[:1] == (mask_key,) else _part(path, leaf)
            for path, leaf in leaves(space)
        ]
        _require_mask_size([part for part in parts if part.kind == "mask"], mask_size)
        if not any(part.kind != "mask" and math.prod(part.encoded_shape) for part in parts):
            raise UserError(f"the observation space {space} is empty; an agent needs at least one number to look at")
        return cls(tuple(parts))

    @property
    def vector_size(self) -> int:
        """Width of `vector`; 0 when there is none."""
        return sum(part.size for part in self.parts if part.kind in ("vector", "one_hot"))

    @property
    def images(self) -> dict[str, tuple[int, ...]]:
        """Names of the images and their shapes (channels, height, width)."""
        return {_image_name(part): part.shape for part in self.parts if part.kind == "pixels"}

    @property
    def keys(self) -> dict[str, tuple[int, ...]]:
        """Keys of a Dict or Tuple observation, and the shape of one observation in each as a network reads it."""
        return {part.key: part.encoded_shape for part in self.parts if part.key and part.kind != "mask"}

    def by_key(self, inputs: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
        """What was encoded, by key: views of `vector` in the shapes of `keys`, and images.

        Args:
            inputs: encoded, each `[..., *shape]`; any leading axes.
        """
        found, start = {}, 0
        for part in self.parts:
            if part.kind == "pixels":
                found[part.key] = inputs[_image_name(part)]
            elif part.kind != "mask":
                columns = inputs["vector"][..., start : start + part.size]
                found[part.key] = columns.unflatten(-1, part.encoded_shape) if part.encoded_shape else columns[..., 0]
                start += part.size
        return found

    @property
    def has_mask(self) -> bool:
        """Whether the observation itself holds the action mask."""
        return any(part.kind == "mask" for part in self.parts)

    def encode(self, observation: Any, exact: bool = False) -> dict[str, np.ndarray]:
        """Encode a batch of observations; every leaf has a leading axis `[N]`.

        Args:
            observation: as the environments give it.
            exact: whether `vector` is float64 where the observation has digits that float32 has no room for.
        """
        if len(self.parts) == 1 and self.parts[0].kind == "vector":  # most robots: nothing to take apart
            leaf = np.asarray(_at(observation, self.parts[0].path))
            leaf = np.asarray(leaf, _number_type(leaf, exact))
            return {"vector": leaf.reshape(len(leaf), -1)}
        encoded: dict[str, np.ndarray] = {}
        columns: list[np.ndarray] = []
        masks: list[np.ndarray] = []
        for part in self.parts:
            leaf = np.asarray(_at(observation, part.path))
            if part.kind == "vector":
                columns.append(leaf.reshape(len(leaf), -1).astype(_number_type(leaf, exact)))
            elif part.kind == "one_hot":
                columns.append(_one_hot(leaf.reshape(len(leaf), -1), part))
            elif part.kind == "mask":
                masks.append(flat_masks(leaf, part.choices))
            else:
                encoded[_image_name(part)] = _channels_first(leaf, part.layout)
        if masks:
            encoded["mask"] = np.concatenate(masks, 1) if len(masks) > 1 else masks[0]
        if columns:
            encoded["vector"] = np.concatenate(columns, 1) if len(columns) > 1 else columns[0]
        return encoded


def _number_type(leaf: np.ndarray, exact: bool) -> type[np.floating]:
    return np.float64 if exact and is_wide(leaf.dtype, np.float32) else np.float32


def _at(observation: Any, path: Path) -> Any:
    for key in path:
        observation = observation[key]
    return observation


def _image_name(part: Part) -> str:
    return "pixels" if not part.path else "pixels." + ".".join(map(str, part.path))


def _part(path: Path, space: gymnasium.Space) -> Part:
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Box):
        return _box_part(path, space)
    if isinstance(space, spaces.Discrete):
        return Part(path, "one_hot", (), (int(space.n),), (int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        choices, start = (tuple(int(n) for n in x.reshape(-1)) for x in (space.nvec, space.start))
        return Part(path, "one_hot", tuple(space.shape), choices, start)
    if isinstance(space, spaces.MultiBinary):
        return Part(path, "vector", tuple(space.shape))
    raise UserError(
        f"the observation space {space}{place(path)} is not supported; supported are Box, Discrete, MultiDiscrete, "
        "MultiBinary and Dict or Tuple of these: make one of them of it with gymnasium.wrappers.TransformObservation("
        f"env, function, space){', or leave it out with observation_keys' if path else ''}"
    )


def _box_part(path: Path, space: gymnasium.spaces.Box) -> Part:
    shape, layout = tuple(space.shape), layout_of(space)
    frame = tuple(space.frame.shape) if isinstance(space, StackedFrames) else ()
    if not layout:
        return Part(path, "vector", shape, frame=frame)
    channels_first = {"hw": (1, *shape), "chw": shape, "hwc": (*shape[-1:], *shape[:-1])}[layout]
    return Part(path, "pixels", channels_first, layout=layout, frame=frame)


def _mask_part(path: Path, space: gymnasium.Space, columns: tuple[int, ...]) -> Part:
    shape = tuple(space.shape or ())
    return Part(path, "mask", shape, choices=columns if is_padded(shape, columns) else ())


def _require_mask_size(masks: list[Part], mask_size: int) -> None:
    size = sum(sum(part.choices) or int(np.prod(part.shape or (0,))) for part in masks)
    if masks and size != mask_size:
        raise UserError(
            f"the action mask {masks[0].path[0]!r} has {size} entries and the action space has {mask_size} choices; a "
            "mask needs one entry for each choice"
        )


def _one_hot(values: np.ndarray, part: Part) -> np.ndarray:
    columns = []
    for i, (n, start) in enumerate(zip(part.choices, part.start, strict=True)):
        index = values[:, i].astype(np.int64) - start
        if index.min() < 0 or index.max() >= n:
            raise UserError(
                f"an observation{place(part.path)} is {values[:, i].tolist()}, outside its space of {n} choices "
                f"from {start}; correct the environment's space or its observations"
            )
        column = np.zeros((len(index), n), np.float32)
        column[np.arange(len(index)), index] = 1.0
        columns.append(column)
    return np.concatenate(columns, 1)


def _channels_first(image: np.ndarray, layout: str) -> np.ndarray:
    if layout == "hwc":
        return np.ascontiguousarray(np.moveaxis(image, -1, 1))
    return image[:, None] if layout == "hw" else image
