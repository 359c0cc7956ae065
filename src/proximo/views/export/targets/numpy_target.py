"""One Python file that needs NumPy alone: `numpy_runtime.py` with a policy at its end."""

import base64
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.machinery import SourceFileLoader
from pathlib import Path
from pprint import pformat
from typing import Any

import numpy as np

from proximo.control.models.policy import ControlPolicy
from proximo.views.export.interface import Interface, Port, at
from proximo.views.export.parity import Play
from proximo.views.export.targets.plan import Plan, plan_of

FILE = "policy.py"
_MARK = "POLICY: dict[str, Any] = {}\n"
_ACT = {
    False: '''
def act(observation: Any, mask: Any = None) -> Any:
    """The action for one observation, or for a batch of them with a leading axis.

    Args:
        observation: as the environment gives it.
        mask: allowed choices, bool [K] or [N, K], where the policy was trained with masks.

    Raises:
        ValueError: the observation can not be acted on.
    """
    return _decide(observation, None, mask)[0]
''',
    True: '''
def act(observation: Any, state: Any, mask: Any = None) -> tuple[Any, Any]:
    """The action for one observation, or for a batch of them with a leading axis, and the memory afterwards.

    Args:
        observation: as the environment gives it.
        state: what the last step gave; `initial_state()` when an episode starts.
        mask: allowed choices, bool [K] or [N, K], where the policy was trained with masks.

    Raises:
        ValueError: the observation can not be acted on.
    """
    return _decide(observation, state, mask)
''',
}


def write(policy: ControlPolicy, interface: Interface, folder: Path) -> None:
    """Write the file.

    Raises:
        UserError: code of the user's own is in the network.
    """
    plan = plan_of(policy, "numpy")
    weights = dict(plan.weights)
    if policy.normalizer is not None:
        moments = policy.normalizer.moments
        dtype = np.float64 if interface.exact else np.float32
        weights["normalizer.mean"] = moments.mean.numpy().astype(dtype)
        weights["normalizer.scale"] = moments.scale().numpy().astype(dtype)
    runtime = Path(__file__).with_name("numpy_runtime.py").read_text("utf-8").split(_MARK)[0]
    text = pformat(_description(policy, interface, plan), width=110, sort_dicts=False)
    arrays = "".join(f"    {name!r}: _array(\n{_literal(array)}    ),\n" for name, array in weights.items())
    filled = f"POLICY: dict[str, Any] = {text}\n{_ACT[policy.memory_size > 0]}\n\n_WEIGHTS = {{\n{arrays}}}\n"
    (folder / FILE).write_text(runtime + filled, "utf-8")


def call(interface: Interface) -> str:
    """How it is called."""
    mask = ", mask=mask" if interface.mask else ""
    return f"action, state = act(observation, state{mask})" if interface.state else f"action = act(observation{mask})"


def _literal(array: np.ndarray) -> str:
    """The arguments of `_array`, base64 in lines of 100 letters."""
    array = np.ascontiguousarray(array)
    little = array.astype(array.dtype.newbyteorder("<"))
    text = base64.b64encode(little.tobytes()).decode()
    lines = [f'        "{text[i : i + 100]}"\n' for i in range(0, len(text), 100)] or ['        ""\n']
    return f'        {array.shape}, "{little.dtype.str}",\n{"".join(lines)}'


def _description(policy: ControlPolicy, interface: Interface, plan: Plan) -> dict[str, Any]:
    """Everything but the weights, as literals."""
    actions = [
        {
            **_plain(port),
            "outputs": part.outputs,
            "unit": part.unit,
            "whole": part.whole,
            **({"beta": True} if part.beta else {}),
            **({"centre": part.middle[0].tolist(), "half": part.middle[1].tolist()} if part.kind == "box" else {}),
        }
        for part, port in zip(policy.actions.parts, interface.actions, strict=True)
    ]
    names = dict(zip(policy.observations.images, _images(interface), strict=True))
    return {
        "observations": [
            {key: x for key, x in _plain(port).items() if key not in ("low", "high")} for port in interface.observations
        ],
        "actions": actions,
        "squashed": policy.actions.squashed,
        "masked": interface.mask is not None,
        "vector": "float64" if interface.exact else "float32",
        "clip": policy.normalizer.clip if policy.normalizer is not None else None,
        "images": {names[name]: layers for name, layers in plan.images.items()},
        "memory": plan.memory,
        "state": policy.memory_size,
        "actor": plan.actor,
    }


def _images(interface: Interface) -> list[str]:
    return [port.name for port in interface.observations if port.meaning == "image"]


def _plain(port: Port) -> dict[str, Any]:
    """A port as literals; None for a bound that there is not, lists for tuples."""
    described = {key: list(x) if isinstance(x, tuple) else x for key, x in asdict(port).items()}
    for key in ("low", "high"):
        if described[key] is not None:
            described[key] = [x if np.isfinite(x) else None for x in described[key]]
    return described


class _Uncached(SourceFileLoader):
    """Leaves no bytecode beside the file."""

    def set_data(self, path: str, data: Any, *, _mode: int = 0o666) -> None:
        """Not written."""


def open_export(folder: Path, interface: Interface) -> Play:
    """The file, imported anew."""
    loader = _Uncached("proximo_exported_policy", str(folder / FILE))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)

    def play(given: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        observation = _tree({port.path: given[port.name] for port in interface.observations})
        state = [given["state"]] if "state" in given else []
        answer = module.act(observation, *state, mask=given.get("mask"))
        action, after = (answer[0], [answer[1]]) if state else (answer, [])
        logits = [module.logits(observation, *state, mask=given.get("mask"))] if interface.logits else []
        return [*(at(action, port.path) for port in interface.actions), *logits, *after]

    return play


def _tree(leaves: Mapping[tuple, Any]) -> Any:
    """Nested dicts by path; a lone array at the root."""
    if () in leaves:
        return leaves[()]
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        inner = tree
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        inner[path[-1]] = leaf
    return tree
