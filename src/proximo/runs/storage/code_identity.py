"""Which code of the user's own a run was made with, so that another run is never answered with its results.

Libraries are told apart by their versions (`code/version.txt`); this is about what is edited between two calls: a
lambda, a notebook's cell, a module beside the command. Comments, layout and line numbers are no part of it.
"""

import functools
import hashlib
import json
import platform
from collections.abc import Mapping
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

from proximo.errors import UserError
from proximo.runs.storage.code_walk import CodeWalk
from proximo.runs.storage.files import parse_json, write_atomically
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.module_sources import imported

_FILE = "identity.json"


def identity(parts: Mapping[str, Any]) -> dict[str, str]:
    """Fingerprints of some callables' code: 16 hexadecimal digits each, and Python's version.

    Args:
        parts: by a name for messages, a callable, an object whose class and contents count, or `module:function`.
    """
    digests = {name: digest for name, part in parts.items() if (digest := code_digest(part))}
    return {"python": platform.python_version(), **digests} if digests else {}


def code_digest(part: Any) -> str:
    """Fingerprint of the code behind a callable, its closure and the user's modules that it needs.

    Code is looked at each time. Lists, arrays and objects count as they were when they were first seen: what they have
    become by a later call, as a list that a training has filled, is no other code.

    Args:
        part: a callable, an object, `module:function`, or a tuple of these and of numbers.

    Returns:
        "" where nothing of it is the user's own.

    Raises:
        UserError: a module of the user's own was edited since it was imported, so that its file is not what would run.
    """
    if isinstance(part, tuple):
        digests = [repr(each) if isinstance(each, int | float) else code_digest(each) for each in part]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16] if any(digests) else ""
    seen = CodeWalk()
    if isinstance(part, str):
        place, _, name = part.partition(":")
        if name and (module := imported(place)) is not None:
            seen.module(module.__name__)
            seen.value(getattr(module, name, None))
    else:
        seen.value(part)
        # An object is what its maker has made it, whatever module wrote its class.
        code = isinstance(part, FunctionType | BuiltinFunctionType | MethodType | type | functools.partial)
        seen.own = seen.own or not code
    return seen.digest


def note_code(folder: RunFolder, now: Mapping[str, str]) -> None:
    """Write down the code that a run is made with."""
    if now:
        write_atomically(folder.code / _FILE, (json.dumps(now, indent=1) + "\n").encode())


def other_code(folder: RunFolder, now: Mapping[str, str]) -> list[str]:
    """Names of the parts whose code is another than the run's; none where that can not be told.

    Under another version of Python the same source is other code, and a run of before this was written down has none.

    Raises:
        UserError: what was written down can not be read.
    """
    file = folder.code / _FILE
    if not file.exists():
        return []
    try:
        before = dict(parse_json(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} can not be read ({error}): delete it") from error
    if now and before.get("python") != now["python"]:
        return []
    names = dict.fromkeys([*now, *before])
    return [name for name in names if name != "python" and before.get(name) != now.get(name)]
