"""Modules of the user's own, beside which a command is run."""

import importlib
import os
import sys
from types import ModuleType


def import_own(name: str) -> ModuleType:
    """The module of this name, looked for in the current folder too: a console script does not look there.

    Raises:
        Exception: whatever the module raises.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return importlib.import_module(name)


def is_missing(name: str, error: Exception) -> bool:
    """Whether `import_own` failed since there is no such module, rather than one that it imports itself."""
    return isinstance(error, ModuleNotFoundError) and bool(error.name) and f"{name}.".startswith(f"{error.name}.")
