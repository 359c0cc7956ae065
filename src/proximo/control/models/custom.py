"""Networks and encoders of the user's own: found by name, made, tried out on zeros, and asked as ours are."""

import sys
from collections.abc import Mapping
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from proximo.control.config import NetworkSettings
from proximo.control.spaces.observations import ObservationSpec
from proximo.core.distributions import Distribution, Product
from proximo.errors import FOREIGN, UserError, own_frame
from proximo.runs.plugins import find_own, on_one_line

TRIED = 3
"""Observations that a new network is shown."""


class CustomNetwork(nn.Module):
    """A network of the user's own, asked with any leading axes.

    It is made as `Net(observations, outputs, **arguments)` and called as `net(inputs)`, or `net(inputs, state)` where
    it has a `state_size`: all inputs `[B, ...]`, by key of a Dict observation, and `vector` `[B, D]`, all of them that
    are no images. It gives what actions are drawn from, `[B, outputs]` or a `Distribution`, and values, `[B]` or
    `[B, 1]`; and the state `[B, state_size]` after this step, where it has one.

    Args:
        observations: what it reads.
        outputs: numbers that the action distribution takes.
        settings: name it and its arguments.

    Raises:
        UserError: it can not be found, made or asked, or gives something else.
    """

    def __init__(self, observations: ObservationSpec, outputs: int, settings: NetworkSettings) -> None:
        super().__init__()
        self.name = f"network {settings.custom}"
        self.observations, self.outputs = observations, outputs
        make = find_own(settings.custom, "network")
        self.module = made(
            self.name, "Net(observations, outputs, **arguments)", make, observations, outputs, **settings.arguments
        )
        self.state_size = int(getattr(self.module, "state_size", 0))
        self.gives_distribution = False
        """Whether it decides on the deviations too."""
        self._try()

    def step(self, inputs: Mapping[str, Tensor], state: Tensor | None) -> tuple[Any, Tensor, Tensor | None]:
        """One step: encoded `[..., ...]` -> outputs `[..., outputs]` or a distribution, values `[...]`, the state."""
        flat, lead = _flat(inputs, self.observations)
        outputs, value, after = self._ask(flat, state)
        if not isinstance(outputs, Distribution):  # of which, with more axes, only the values are wanted
            outputs = outputs.unflatten(0, lead)
        return outputs, value.unflatten(0, lead), after

    def sequence(self, inputs: Mapping[str, Tensor], state: Tensor, starts: Tensor) -> tuple[Any, Tensor]:
        """Whole sequences `[B, T, ...]`, step by step, the state from zero where an episode starts."""
        seen = {name: x for name, x in inputs.items() if name not in ("memory", "starts")}
        outputs, values = [], []
        for t in range(starts.shape[1]):
            state = torch.where(starts[:, t].unsqueeze(1), 0.0, state)
            out, value, after = self._ask({name: x[:, t] for name, x in seen.items()}, state)
            assert after is not None
            state = after
            outputs.append(out)
            values.append(value)
        return torch.stack(outputs, 1), torch.stack(values, 1)

    def _ask(self, inputs: Mapping[str, Tensor], state: Tensor | None) -> tuple[Any, Tensor, Tensor | None]:
        shown = {**inputs, **self.observations.by_key(inputs)} if self.observations.keys else dict(inputs)
        given = self.module(shown) if not self.state_size else self.module(shown, state)
        if not isinstance(given, tuple | list) or len(given) not in (2, 3):
            raise TypeError(f"it gave a {type(given).__name__} where outputs and values were wanted")
        outputs, value, *after = given
        if value.dim() == 2 and value.shape[1] == 1:
            value = value.squeeze(1)
        if isinstance(outputs, Distribution) and outputs.event_size is None:
            outputs = Product([outputs])
        return outputs, value, after[0] if after else None

    @torch.no_grad()
    def _try(self) -> None:
        """See on a few observations of zeros that it gives what it has to, before anything is trained."""
        zeros = _zeros(self.observations)
        state = torch.zeros(TRIED, self.state_size) if self.state_size else None
        expected = f"outputs [{TRIED}, {self.outputs}] and values [{TRIED}]"
        expected += f" and a state [{TRIED}, {self.state_size}]" if self.state_size else ""
        try:
            outputs, value, after = self._ask(zeros, state)
        except FOREIGN as error:
            shown = ", ".join(f"{name} {tuple(x.shape)}" for name, x in zeros.items())
            raise UserError(
                f"{self.name} failed{_place(error)} ({on_one_line(error)}): shown {shown}, it has to give {expected}"
            ) from error
        self.gives_distribution = isinstance(outputs, Distribution)
        shapes = [() if self.gives_distribution else tuple(outputs.shape), tuple(value.shape)]
        wanted: list[tuple[int, ...]] = [() if self.gives_distribution else (TRIED, self.outputs), (TRIED,)]
        if self.state_size:
            shapes.append(() if after is None else tuple(after.shape))
            wanted.append((TRIED, self.state_size))
        if shapes != wanted:
            raise UserError(f"{self.name} gives shapes {shapes}, and has to give {expected}: correct its forward")
        if self.gives_distribution and self.state_size:
            raise UserError(f"{self.name} has a state and gives a distribution: give outputs instead")


class Encoders(nn.Module):
    """The user's encoders of keys; what they leave of the vector follows.

    Args:
        observations: what is there.
        makers: `module:Name` by key.

    Raises:
        UserError: there is no such key, or an encoder can not be found, made or asked.
    """

    def __init__(self, observations: ObservationSpec, makers: Mapping[str, str]) -> None:
        super().__init__()
        self.observations, self.keys = observations, tuple(makers)
        shapes = observations.keys
        for key in makers:
            if key not in shapes:
                there = ", ".join(shapes) or "no parts with names (a Dict has)"
                raise UserError(f"encoders names the observation {key!r}, and the environment shows {there}")
        zeros = observations.by_key(_zeros(observations))
        self.encoders = nn.ModuleList(_encoder(key, path, zeros[key]) for key, path in makers.items())
        rest = [part for part in observations.parts if part.kind in ("vector", "one_hot") and part.key not in makers]
        self.rest = tuple(part.key for part in rest)
        with torch.no_grad():
            self.size = self._features(zeros).shape[-1]
        """Features."""

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encoded `[..., ...]` -> features `[..., size]`."""
        flat, lead = _flat(inputs, self.observations)
        return self._features(self.observations.by_key(flat)).unflatten(0, lead)

    def _features(self, by_key: Mapping[str, Tensor]) -> Tensor:
        parts = [encoder(by_key[key]) for key, encoder in zip(self.keys, self.encoders, strict=True)]
        parts += [by_key[key].flatten(1) if by_key[key].dim() > 1 else by_key[key].unsqueeze(1) for key in self.rest]
        return torch.cat(parts, 1)


def _encoder(key: str, path: str, zeros: Tensor) -> nn.Module:
    name, shape = f"encoder {path} of {key!r}", tuple(zeros.shape[1:])
    module = made(name, f"Encoder({shape})", find_own(path, "encoder"), shape)
    try:
        with torch.no_grad():
            features = module(zeros)
    except FOREIGN as error:
        raise UserError(
            f"{name} failed{_place(error)} ({on_one_line(error)}): it is shown {(TRIED, *shape)}"
        ) from error
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != TRIED:
        seen = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise UserError(f"{name} gives {seen} of {(TRIED, *shape)}, and has to give features ({TRIED}, F)")
    return module


def made(name: str, call: str, make: Any, *arguments: Any, **named: Any) -> nn.Module:
    """A module of the user's own, with dropout and batch statistics standing still.

    Raises:
        UserError: it can not be made, or is no module.
    """
    ours = issubclass(make, nn.Module) if isinstance(make, type) else isinstance(make, FunctionType)
    library = str(getattr(make, "__module__", "")).partition(".")[0] in sys.stdlib_module_names
    if library or not ours:  # a run's files name it: whatever else has that name is not called
        raise UserError(
            f"{name} is a {type(make).__name__}: give a class of your own derived from torch.nn.Module, or a function"
        )
    try:
        module = make(*arguments, **named)
    except FOREIGN as error:
        raise UserError(
            f"{name} can not be made{_place(error)} ({on_one_line(error)}): it is called as {call}"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"{name} gives a {type(module).__name__}, and has to give a torch.nn.Module")
    for part in module.modules():
        # The policy that learns has to be the one that acted.
        if isinstance(part, _DropoutNd | _BatchNorm):
            part.eval()
        if isinstance(part, nn.RNNBase | nn.MultiheadAttention):
            part.dropout = 0.0
    return module


def _place(error: BaseException) -> str:
    """` at FILE:LINE` of the user's code."""
    frame = own_frame(error)
    return "" if frame is None else f" at {frame.filename}:{frame.lineno}"


def _flat(inputs: Mapping[str, Tensor], observations: ObservationSpec) -> tuple[dict[str, Tensor], tuple[int, ...]]:
    """Encoded observations with one leading axis in the place of theirs, and what these were."""
    lead = _lead(inputs, observations)
    return {name: x.flatten(0, len(lead) - 1) for name, x in inputs.items()}, lead


def _lead(inputs: Mapping[str, Tensor], observations: ObservationSpec) -> tuple[int, ...]:
    """The leading axes of encoded observations."""
    if "vector" in inputs:
        return tuple(inputs["vector"].shape[:-1])
    name, shape = next(iter(observations.images.items()))
    return tuple(inputs[name].shape[: -len(shape)])


def _zeros(observations: ObservationSpec) -> dict[str, Tensor]:
    zeros = {name: torch.zeros(TRIED, *shape, dtype=torch.uint8) for name, shape in observations.images.items()}
    if observations.vector_size:
        zeros["vector"] = torch.zeros(TRIED, observations.vector_size)
    return zeros
