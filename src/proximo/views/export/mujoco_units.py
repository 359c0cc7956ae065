"""Units of the numbers that a MuJoCo model's joints and motors give and take: SI, as in MuJoCo's own models."""

from collections.abc import Mapping
from typing import Any

_POSITION = {0: ("m",) * 3 + ("1",) * 4, 1: ("1",) * 4, 2: ("m",), 3: ("rad",)}
"""By MuJoCo's type of joint: free (its rotation is a quaternion), ball, slide, hinge."""
_VELOCITY = {0: ("m/s",) * 3 + ("rad/s",) * 3, 1: ("rad/s",) * 3, 2: ("m/s",), 3: ("rad/s",)}
_FORCE = {0: ("N",) * 3 + ("N m",) * 3, 1: ("N m",) * 3, 2: ("N",), 3: ("N m",)}
_OF_A_BODY = {
    "cinert": ("kg m^2",) * 6 + ("kg m",) * 3 + ("kg",),
    "cvel": ("rad/s",) * 3 + ("m/s",) * 3,
    "cfrc_ext": ("N m",) * 3 + ("N",) * 3,
}
"""MuJoCo's spatial vectors: the rotation comes first."""
_FIXED, _NONE, _AFFINE = 0, 0, 1  # mjtGain and mjtBias
_DIRECT = (0, 2, 3)  # mjtDyn: none, filter, filterexact; the control means the same after a filter


def observation_units(model: Any, structure: Mapping[str, int]) -> tuple[str | None, ...]:
    """Units of the numbers of an observation, in the order of Gymnasium's `observation_structure`.

    Args:
        model: `mujoco.MjModel`.
        structure: how many numbers each part has; `skipped_qpos` are the first of qpos, that are not shown.
    """
    types = [int(kind) for kind in model.jnt_type]
    skipped = int(structure.get("skipped_qpos", 0))
    velocity = _joined(_VELOCITY, types)
    known: dict[str, tuple[str, ...]] = {"qpos": _joined(_POSITION, types)[skipped:], "qvel": velocity}
    told: list[str | None] = []
    for name, count in structure.items():
        if name == "skipped_qpos":
            continue
        if name in _OF_A_BODY and count % len(_OF_A_BODY[name]) == 0:
            told += _OF_A_BODY[name] * (count // len(_OF_A_BODY[name]))
        elif name == "qfrc_actuator":  # the first ones may be left out: those of a body that floats
            told += _joined(_FORCE, types)[len(velocity) - count :]
        else:
            units = known.get(name, ())
            told += units if len(units) == count else [None] * count
    return tuple(told)


def action_units(model: Any) -> tuple[str | None, ...]:
    """The unit of each control: `120 N m` where 1 is a torque of 120 N m, `rad` for a servo; None where it is another.

    See "Actuation model" in MuJoCo's documentation: force = gain * control + bias, times the gear.

    Args:
        model: `mujoco.MjModel`.
    """
    return tuple(_of_actuator(model, i) for i in range(model.nu))


def _joined(table: Mapping[int, tuple[str, ...]], types: list[int]) -> tuple[str, ...]:
    return tuple(unit for kind in types for unit in table[kind])


def _of_actuator(model: Any, i: int) -> str | None:
    if model.actuator_trntype[i] not in (0, 1):  # mjtTrn: a joint's
        return None
    kind = int(model.jnt_type[model.actuator_trnid[i, 0]])
    if kind not in (2, 3) or model.actuator_dyntype[i] not in _DIRECT or model.actuator_gaintype[i] != _FIXED:
        return None
    gain, gear = float(model.actuator_gainprm[i, 0]), float(model.actuator_gear[i, 0])
    if model.actuator_biastype[i] == _NONE:
        return _times(gain * gear, _FORCE[kind][0])
    if model.actuator_biastype[i] == _AFFINE and gear:
        _, position, velocity = (float(x) for x in model.actuator_biasprm[i, :3])
        if position == -gain:
            return _times(1 / gear, _POSITION[kind][0])
        if position == 0 and velocity == -gain:
            return _times(1 / gear, _VELOCITY[kind][0])
    return None


def _times(factor: float, unit: str) -> str:
    return unit if factor == 1 else f"{factor:g} {unit}"
