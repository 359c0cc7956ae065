"""Modules of the user's own, beside which a command is run."""

import importlib
import os
import sys
import traceback
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from proximo.errors import FOREIGN, UserError, nearest


def find_own(
    path: str, kind: str, *, folder: str = "", registry: Collection[str] = (), with_traceback: bool = False
) -> Any:
    """The function that `module:function` names; the module is looked for in the current folder too.

    Args:
        path: `module:function`.
        kind: what it is wanted as, for messages: "reward".
        folder: where to look first.
        registry: Names of what modules make known elsewhere when they are imported.
        with_traceback: whether the traceback of a module that fails follows the sentence.

    Returns:
        A callable, or None where the module has none of this name and `registry` has it.

    Raises:
        UserError: There is no such module, it can not be imported, or has nothing of this name that can be called.
    """
    place, _, name = path.partition(":")
    wanted = f"{kind} {path}"
    try:
        module = import_own(place, folder)
    except FOREIGN as error:  # it is the user's own code: whatever it raises, say whose it is
        if _is_missing(place, error):
            where = f" in {folder}" if folder else ""
            raise UserError(
                f"{wanted}: there is no module {place!r}{where}: run from the folder that holds it, or install it"
            ) from error
        report = "\n" + "".join(traceback.format_exception(error)).rstrip() if with_traceback else ""
        raise UserError(
            f"{wanted}: module {place!r} could not be imported ({on_one_line(error)}): correct it{report}"
        ) from error
    found = _inside(module, name)
    if found is None and name not in registry:
        likely = nearest(name, [*vars(module), *registry])
        hint = f"did you mean {likely}?" if likely else "look for the name of its function"
        more = f" and registers no such {kind}" if registry else ""
        raise UserError(f"{wanted}: module {place!r} has no {name!r}{more}: {hint}")
    if found is not None and not callable(found):
        raise UserError(f"{wanted} is a {type(found).__name__}, not a function: give module:function")
    return found


def _inside(module: ModuleType, name: str) -> Any:
    """What a module has by a name, which may be that of something in one of its classes; None where there is none."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    return found


def place_of(given: Any) -> str:
    """`module:Name` of a class or function; what is defined in a script is named by the script's file.

    The name need not find it again: a lambda or a function within a function has one too.
    """
    module = getattr(given, "__module__", "?")
    name = getattr(given, "__qualname__", type(given).__name__)
    main = sys.modules["__main__"]
    if module == "__main__" and _inside(main, name) is given:
        module = _script(main)
    return f"{module}:{name}"


def name_of_own(given: Any, kind: str) -> str:
    """The `module:Name` by which another process finds a class or a function again.

    Args:
        given: a class, a function, or a name already.
        kind: what it is wanted as, for messages: "network".

    Raises:
        UserError: it has no such name.
    """
    if isinstance(given, str):
        return given
    name, module = getattr(given, "__qualname__", ""), sys.modules.get(getattr(given, "__module__", ""))
    if not name or module is None or _inside(module, name) is not given:
        what = f"{name} of {given.__module__}" if name else f"{type(given).__name__} object"
        raise UserError(
            f"{kind}: a run is loaded by names, and {what} can not be found by its own: define it at the top of a "
            "module, a script or a notebook, and give that"
        )
    return place_of(given)


def _script(main: ModuleType) -> str:
    """The name under which a script that is run can be imported; `__main__` stays one in a notebook."""
    if (spec := getattr(main, "__spec__", None)) is not None:  # python -m package.module
        return str(spec.name)
    file = getattr(main, "__file__", None)
    return Path(file).stem if file else "__main__"


def on_one_line(error: BaseException) -> str:
    """Kind and message of somebody else's error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


@contextmanager
def torchs_modes_put_back() -> Iterator[None]:
    """What code of the user's sets of torch for itself holds for itself alone: the training goes on with its own."""
    torch = sys.modules.get("torch")
    if torch is None:  # who has not imported it has nothing to put back
        yield
        return
    grad, dtype, device = torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_default_device()
    try:
        yield
    finally:
        torch.set_grad_enabled(grad)
        torch.set_default_dtype(dtype)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)  # None is the CPU, without a mode


def import_own(name: str, folder: str = "") -> ModuleType:
    """The module of this name, of these folders too: a console script does not even look in the current one."""
    for place in (os.getcwd(), folder):
        if place and place not in sys.path:
            sys.path.insert(0, place)
    # A script that is running is imported already, under another name: a second copy would have other classes.
    if name == _script(sys.modules["__main__"]) and name not in sys.modules:
        return sys.modules["__main__"]
    return importlib.import_module(name)


def _is_missing(name: str, error: BaseException) -> bool:
    """True if `import_own` failed since there is no such module, rather than one that it imports itself."""
    return isinstance(error, ModuleNotFoundError) and bool(error.name) and f"{name}.".startswith(f"{error.name}.")
