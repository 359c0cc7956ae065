"""One .c and one .h, C99, without allocation: for MLPs, GRUs and LSTMs."""

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proximo.control.models.policy import ControlPolicy
from proximo.errors import UserError
from proximo.views.export.interface import Interface, stack
from proximo.views.export.parity import Play
from proximo.views.export.targets import c_runtime
from proximo.views.export.targets.c_source import acted, call, observed, sizes, source
from proximo.views.export.targets.plan import plan_of

_TYPES = {"float": np.float32, "double": np.float64}


def write(policy: ControlPolicy, interface: Interface, folder: Path) -> None:
    """Write both files.

    Raises:
        UserError: the policy sees images, or has code of the user's own.
    """
    plan = plan_of(policy, "c")
    if plan.images:
        raise UserError("this policy sees images, which the C export has no layers for: export --to onnx or numpy")
    (folder / "policy.c").write_text(source(policy, interface, plan), "utf-8")
    header = c_runtime.HEADER.format(
        title=_harmless(f"{', '.join(port.name for port in interface.inputs)} to {', '.join(interface.output_names)}"),
        logits="Logits are those of all choices and switches, one after another; a null pointer leaves them out.\n   "
        if interface.logits
        else "",
        state="The state is zeros when an episode starts; next_state may be the same array.\n   "
        if interface.state
        else "",
        sizes="".join(f"#define POLICY_{name} {size}\n" for name, size in sizes(interface).items()),
        signature=call(interface),
    )
    (folder / "policy.h").write_text(header, "utf-8")


def compiler() -> str:
    """The C compiler.

    Raises:
        UserError: there is none.
    """
    found = next(filter(None, map(shutil.which, filter(None, (os.environ.get("CC"), "cc", "gcc", "clang")))), None)
    if found is None:
        raise UserError(
            "the C export is compiled once and compared with the policy, and there is no C compiler: install gcc or "
            "clang, or name yours in CC"
        )
    return found


def open_export(folder: Path, interface: Interface) -> Play:
    """The file, compiled somewhere else and loaded.

    Raises:
        UserError: there is no compiler, or it fails.
    """
    with tempfile.TemporaryDirectory() as place:
        library = Path(place) / "policy.so"
        command = [
            compiler(),
            "-std=c99",
            "-O2",
            "-shared",
            "-fPIC",
            str(folder / "policy.c"),
            "-o",
            str(library),
            "-lm",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise UserError(f"the C export could not be compiled ({done.stderr.strip().splitlines()[-1:]})")
        function = ctypes.CDLL(str(library)).policy_act

    def play(given: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        observation = stack(interface.observations, given).astype(_TYPES[observed(interface)], "C")
        count = len(observation)
        action = np.zeros((count, sizes(interface)["ACTION"]), _TYPES[acted(interface)])
        state = [np.ascontiguousarray(given["state"])] if interface.state else []
        after = [np.zeros_like(x) for x in state]
        mask = [np.ascontiguousarray(given["mask"], np.uint8)] if interface.mask else []
        logits = [np.zeros((count, interface.logits.size), np.float32)] if interface.logits else []
        arrays: list[np.ndarray[Any, Any]] = [observation, *mask, *state, action, *logits, *after]
        for i in range(count):
            if function(*(ctypes.c_void_p(array[i].ctypes.data) for array in arrays)):
                raise UserError("the C export found an observation that is not finite, which the policy acts on")
        ends = np.cumsum([port.size for port in interface.actions])[:-1]
        return [*np.split(action, ends, 1), *logits, *after]

    return play


def _harmless(text: str) -> str:
    """Names for a comment: what could end it, and be compiled as code, is left out."""
    return re.sub(r"[^\w ., -]", "_", text)
