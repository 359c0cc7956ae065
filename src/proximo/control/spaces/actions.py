"""From what a network emits to what an environment takes: distributions over any action space, rescaling, masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import gymnasium
import numpy as np
from torch import Tensor

from proximo.control.spaces.leaves import Path, leaves, place
from proximo.control.spaces.numbers import LARGEST_FLOAT32
from proximo.core.beta import Beta
from proximo.core.distributions import Bernoulli, Categorical, Distribution, Gaussian, Product, SquashedGaussian
from proximo.errors import UserError


@dataclass(frozen=True)
class Part:
    """One leaf of an action space."""

    path: Path
    kind: Literal["box", "choice", "binary"]
    shape: tuple[int, ...]
    """Of the leaf, as the environment takes it."""
    dtype: str
    choices: tuple[int, ...] = ()
    """choice: how many there are in each column."""
    start: tuple[int, ...] = ()
    """choice: the smallest value of each column."""
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    """box: what -1 and 1 stand for in each column: its bounds. Where one is missing they are 2 apart: an untrained
    policy acts at unit scale, around 0 or one unit within the only bound."""
    open_low: tuple[bool, ...] = ()
    open_high: tuple[bool, ...] = ()
    """box: the columns without that bound; () if all have it."""
    beta: bool = False
    """box: drawn from Betas, each of two outputs, instead of a Gaussian around one."""

    def __str__(self) -> str:
        """For a message, as `arm: 2 numbers from -1 to 1`."""
        if self.kind == "box":
            low, high = (np.unique(bound).tolist() for bound in self.bounds)
            low, high = (f"{x[0]:g}" if len(x) == 1 else "bounds of their own" for x in (low, high))
            what = f"{self.width} number{'s' * (self.width != 1)} from {low} to {high}" + (
                ", from Betas" if self.beta else ""
            )
        else:
            what = f"{' and '.join(map(str, self.choices))} choices" if self.choices else f"{self.width} switches"
        name = ".".join(map(str, self.path))
        return f"{name}: {what}" if name else what

    # Computed once: these are asked for at every step.
    @cached_property
    def width(self) -> int:
        """Columns it takes in a stored action."""
        return int(np.prod(self.shape, dtype=int))

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Low and high of each column, `[width]`; infinite where there is none."""
        return self._where_bounded(np.asarray(self.low), np.asarray(self.high))

    @cached_property
    def stored_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The same in the units of stored actions: -1 and 1, or infinite."""
        return self._where_bounded(np.full(self.width, -1.0), np.full(self.width, 1.0))

    def _where_bounded(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self.open_low:
            low, high = np.where(self.open_low, -np.inf, low), np.where(self.open_high, np.inf, high)
        return low, high

    @cached_property
    def middle(self) -> tuple[np.ndarray, np.ndarray]:
        """Centre and half the width of each column's interval, `[width]`."""
        low, high = np.asarray(self.low), np.asarray(self.high)
        return 0.5 * (low + high), 0.5 * (high - low)

    @cached_property
    def unit(self) -> bool:
        """Box: whether a stored action needs no rescaling."""
        return set(self.low) == {-1.0} and set(self.high) == {1.0}

    @cached_property
    def whole(self) -> bool:
        """Whether the environment takes whole numbers."""
        return np.issubdtype(self.dtype, np.integer)

    @property
    def outputs(self) -> int:
        """Numbers a network emits for it."""
        return sum(self.choices) if self.kind == "choice" else self.width * (2 if self.beta else 1)


@dataclass(frozen=True)
class ActionSpec:
    """How actions of one space are sampled, stored and handed over.

    A stored action is one float tensor `[..., width]` with the columns of all leaves side by side: Box columns in units
    in which the bounds are -1 and 1 (unclipped, or before tanh), choices counted from 0, switches 0 or 1.
    """

    parts: tuple[Part, ...]
    squashed: bool = False

    def __str__(self) -> str:
        """For a message: `2 numbers from -1 to 1, squashed`."""
        return ", ".join([*map(str, self.parts), *(["squashed"] if self.squashed else [])])

    @classmethod
    def of(cls, space: gymnasium.Space, squashed: bool = False, beta: bool = False) -> "ActionSpec":
        """The encoding of an action space of one environment.

        Args:
            space: it.
            squashed: Box columns are squashed by tanh.
            beta: Box columns are drawn from Betas.

        Raises:
            UserError: a space that is not supported, or has no bounds for these two.
        """
        parts = tuple(_part(path, leaf) for path, leaf in leaves(space))
        if (squashed or beta) and any(part.open_low for part in parts):
            wanted = "drawn within" if beta else "squashed to"
            raise UserError(
                f"the action space {space} has no bounds that actions could be {wanted}: set network.actions to "
                "gaussian, or bound it with gymnasium.wrappers.TransformAction(env, function, space)"
            )
        if beta:
            parts = tuple(replace(part, beta=True) if part.kind == "box" else part for part in parts)
        if not sum(part.width for part in parts):
            raise UserError(f"the action space {space} is empty; an agent needs something to decide")
        return cls(parts, squashed)

    @property
    def beta(self) -> bool:
        """Whether Box columns are drawn from Betas."""
        return any(part.beta for part in self.parts)

    def of_other(self, space: gymnasium.Space) -> "ActionSpec":
        """The same kind of encoding for another space; errors as `of`."""
        return ActionSpec.of(space, self.squashed, self.beta)

    @property
    def width(self) -> int:
        """Columns of a stored action."""
        return sum(part.width for part in self.parts)

    @property
    def outputs(self) -> int:
        """Numbers that a network's head emits."""
        return sum(part.outputs for part in self.parts)

    @property
    def continuous(self) -> int:
        """Columns that are continuous, each with a log standard deviation."""
        return sum(part.width for part in self.parts if part.kind == "box")

    @property
    def continuous_columns(self) -> list[int]:
        """Where these lie among the columns of a stored action."""
        found: list[int] = []
        start = 0
        for part in self.parts:
            found += range(start, start + part.width) if part.kind == "box" else ()
            start += part.width
        return found

    @property
    def choices(self) -> tuple[int, ...]:
        """How many there are in each choice column of all parts."""
        return tuple(n for part in self.parts for n in part.choices)

    @property
    def mask_size(self) -> int:
        """Entries of an action mask: one for each choice of all choice columns."""
        return sum(self.choices)

    def distribution(self, outputs: Tensor, log_std: Tensor, mask: Tensor | None = None) -> Distribution:
        """The policy's distribution.

        Args:
            outputs: `[..., outputs]`, of the head.
            log_std: `[continuous]`, or `[..., continuous]` where each state has its own.
            mask: `[..., mask_size]` bool, False = forbidden; or None.
        """
        parts: list[Distribution] = []
        widths = [p.width for p in self.parts if p.kind == "box" and not p.beta]
        stds = iter(log_std.split(widths, -1)) if widths else iter(())
        masks = _split_mask(mask, self.choices)
        gaussian = SquashedGaussian if self.squashed else Gaussian
        for part, output in zip(self.parts, outputs.split([p.outputs for p in self.parts], -1), strict=True):
            if part.beta:
                parts.append(Beta.of_outputs(output))
            elif part.kind == "box":
                parts.append(gaussian(output, next(stds)))
            elif part.kind == "binary":
                parts.append(Bernoulli(output))
            else:
                parts.extend(Categorical(logits, next(masks)) for logits in output.split(list(part.choices), -1))
        return parts[0] if len(parts) == 1 and parts[0].event_size is not None else Product(parts)

    def to_environment(self, actions: np.ndarray) -> Any:
        """Stored actions `[N, width]` as the environment takes them: clipped or squashed, rescaled, in its types.

        Returns:
            An array `[N, ...]`, or the Dict or Tuple of arrays that the space asks for.
        """
        columns = {}
        start = 0
        for part in self.parts:
            columns[part.path] = self._leaf(part, actions[:, start : start + part.width])
            start += part.width
        return _assemble(columns)

    def _leaf(self, part: Part, columns: np.ndarray) -> np.ndarray:
        if part.kind == "box":
            # minimum and maximum, since ndarray.clip takes three times as long on arrays this small
            first, last = part.stored_bounds
            columns = np.tanh(columns) if self.squashed else np.minimum(np.maximum(columns, first), last)
            if not part.unit:
                (low, high), (centre, half) = part.bounds, part.middle
                # Rounding of the affine map may step over a bound, which some environments refuse.
                columns = np.minimum(np.maximum(centre + columns * half, low), high)
            columns = np.rint(columns) if part.whole else columns
        elif part.kind == "choice":
            columns = columns + np.asarray(part.start)
        return columns.reshape(len(columns), *part.shape).astype(part.dtype)

    def clipped_fraction(self, actions: np.ndarray) -> float:
        """Share of continuous columns of `[..., width]` at the bounds: |a| > 1, or |tanh a| > 0.99 where squashed."""
        scale = np.arctanh(0.99) if self.squashed else 1.0
        columns = [np.full(part.width, part.kind == "box") for part in self.parts]
        continuous = actions[..., np.concatenate(columns)]
        if not continuous.size:
            return 0.0
        low, high = (
            np.concatenate(b) for b in zip(*(p.stored_bounds for p in self.parts if p.kind == "box"), strict=True)
        )
        return float(((continuous < scale * low) | (continuous > scale * high)).mean())


def _split_mask(mask: Tensor | None, choices: Sequence[int]) -> Iterator[Tensor | None]:
    return iter([None] * len(choices)) if mask is None else iter(mask.split(list(choices), -1))


def _part(path: Path, space: gymnasium.Space) -> Part:
    spaces = gymnasium.spaces
    if isinstance(space, spaces.Box):
        return _box(path, space)
    if isinstance(space, spaces.Discrete):
        return Part(path, "choice", (), str(space.dtype), (int(space.n),), (int(space.start),))
    if isinstance(space, spaces.MultiDiscrete):
        choices, start = (tuple(int(n) for n in x.reshape(-1)) for x in (space.nvec, space.start))
        return Part(path, "choice", space.shape, str(space.dtype), choices, start)
    if isinstance(space, spaces.MultiBinary):
        return Part(path, "binary", tuple(space.shape), str(space.dtype))
    raise UserError(
        f"the action space {space}{place(path)} is not supported; supported are Box, Discrete, MultiDiscrete, "
        "MultiBinary and Dict or Tuple of these: make one of them of it with gymnasium.wrappers.TransformAction(env, "
        "function, space)"
    )


def _box(path: Path, space: gymnasium.spaces.Box) -> Part:
    low, high = space.low.reshape(-1).astype(float), space.high.reshape(-1).astype(float)
    # Gymnasium gives whole numbers without bounds those of their type; people write float32's largest for infinity.
    open_low = ~space.bounded_below.reshape(-1) | (low <= -LARGEST_FLOAT32)
    open_high = ~space.bounded_above.reshape(-1) | (high >= LARGEST_FLOAT32)
    low, high = (
        np.where(open_low, np.where(open_high, -1.0, high - 2.0), low),
        np.where(open_high, np.where(open_low, 1.0, low + 2.0), high),
    )
    ends: dict[str, Any] = {"low": tuple(low.tolist()), "high": tuple(high.tolist())}
    if (open_low | open_high).any():
        ends |= {"open_low": tuple(open_low.tolist()), "open_high": tuple(open_high.tolist())}
    return Part(path, "box", space.shape, str(space.dtype), **ends)


def _assemble(leaves: dict[Path, Any]) -> Any:
    if () in leaves:
        return leaves[()]
    inner: dict[str | int, dict[Path, Any]] = {}
    for (first, *rest), leaf in leaves.items():
        inner.setdefault(first, {})[tuple(rest)] = leaf
    assembled = {key: _assemble(group) for key, group in inner.items()}
    return tuple(assembled[i] for i in range(len(assembled))) if 0 in assembled else assembled
