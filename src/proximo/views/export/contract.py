"""`contract.json`: what a program beside an export has to know, for people and programs."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from proximo.control.models.policy import ControlPolicy
from proximo.control.spaces.images import stack_axis
from proximo.control.spaces.observations import Part
from proximo.views.export.interface import Interface, Port
from proximo.views.export.robot import Robot

FORMAT = "proximo export 1"


def contract(policy: ControlPolicy, interface: Interface, robot: Robot, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The content of `contract.json`.

    Args:
        policy: that was exported.
        interface: of the export.
        robot: what the environment says of itself.
        facts: of this export: the run, the target, the parity.
    """
    state = interface.state
    return {
        "format": FORMAT,
        **facts,
        "rate": robot.rate,
        "inputs": [described(port, robot.observation, robot.observation_units) for port in interface.observations]
        + [described(port) for port in (interface.mask, state) if port is not None],
        "outputs": [described(port, robot.actuators, robot.action_units) for port in interface.actions]
        + ([] if interface.logits is None else [described(interface.logits)])
        + ([described(state) | {"name": "next_state"}] if state is not None else []),
        "state": None if state is None else {"size": state.size, "initial": 0.0, "reset": "when an episode starts"},
        "frame_stack": _frame_stack(policy),
        "history": {
            part.key: math.prod(part.shape) // math.prod(part.frame)
            for part in policy.observations.parts
            if _joined(part)
        },
        "wrappers": {name: array.tolist() for name, array in policy.wrappers.items()},
    }


def described(
    port: Port, columns: Sequence[str] | None = None, units: Sequence[str | None] | None = None
) -> dict[str, Any]:
    """An array in or out.

    Args:
        port: it.
        columns: what its numbers are called, in their order, where that is known.
        units: of each of its numbers, where that is known.
    """
    told: dict[str, Any] = {"name": port.name, "meaning": port.meaning, "path": list(port.path)}
    told |= {"shape": list(port.shape), "dtype": port.dtype}
    told["units"] = list(units) if units and len(units) == port.size else None
    told["columns"] = list(columns) if columns and len(columns) == port.size else None
    if port.low is not None and port.high is not None:
        told |= {"low": _finite(port.low), "high": _finite(port.high)}
    if port.choices:
        told |= {"choices": list(port.choices), "start": list(port.start)}
    if port.layout:
        told["layout"] = port.layout
    return told


def _finite(bounds: Sequence[float]) -> list[float | None]:
    """JSON has no infinity: null where there is no bound."""
    return [bound if math.isfinite(bound) else None for bound in bounds]


def _joined(part: Part) -> bool:
    """Whether a part of a Dict is several observations, oldest first; an episode starts with copies of its first."""
    return bool(part.path and part.frame)


def _frame_stack(policy: ControlPolicy) -> dict[str, Any] | None:
    """How several frames make one observation, which the export is given whole."""
    if policy.frame_stack == 1:
        return None
    part = policy.observations.parts[0]
    return {
        "frames": policy.frame_stack,
        "axis": stack_axis(part.frame or part.shape),
        "order": "oldest first; an episode starts with copies of its first frame",
    }
