"""Modules of the user's own, beside which a command is run."""

import importlib
import os
import sys
import traceback
from collections.abc import Collection
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
    found = getattr(module, name, None)
    if found is None and name not in registry:
        likely = nearest(name, [*vars(module), *registry])
        hint = f"did you mean {likely}?" if likely else "look for the name of its function"
        more = f" and registers no such {kind}" if registry else ""
        raise UserError(f"{wanted}: module {place!r} has no {name!r}{more}: {hint}")
    if found is not None and not callable(found):
        raise UserError(f"{wanted} is a {type(found).__name__}, not a function: give module:function")
    return found


def on_one_line(error: BaseException) -> str:
    """Kind and message of somebody else's error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def import_own(name: str, folder: str = "") -> ModuleType:
    """The module of this name, of these folders too: a console script does not even look in the current one."""
    for place in (os.getcwd(), folder):
        if place and place not in sys.path:
            sys.path.insert(0, place)
    return importlib.import_module(name)


def _is_missing(name: str, error: BaseException) -> bool:
    """True if `import_own` failed since there is no such module, rather than one that it imports itself."""
    return isinstance(error, ModuleNotFoundError) and bool(error.name) and f"{name}.".startswith(f"{error.name}.")
