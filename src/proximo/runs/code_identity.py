"""Which code of the user's own a run was made with, so that another run is never answered with its results.

Libraries are told apart by their versions (`code/version.txt`); this is about what is edited between two calls: a
lambda, a notebook's cell, a module beside the command. Comments, layout and line numbers are no part of it.
"""

import ast
import dataclasses
import functools
import hashlib
import json
import platform
import sys
import sysconfig
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import resolve_name
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from proximo.runs.errors import UserError
from proximo.runs.files import parse_json, write_atomically
from proximo.runs.folder import RunFolder
from proximo.runs.own_module import import_own

STANDS_FOR = "_proximo_stands_for"
"""The attribute of a method that is ours for a while: the class's own that it stands for, None for an inherited one."""
_FILE = "identity.json"
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def identity(parts: Mapping[str, Any]) -> dict[str, str]:
    """What tells the code of some callables from any other: 16 hexadecimal digits each, and Python's version.

    Args:
        parts: by a name for messages, a callable, an object whose class counts, or `module:function`.
    """
    digests = {name: digest for name, part in parts.items() if (digest := code_digest(part))}
    return {"python": platform.python_version(), **digests} if digests else {}


def code_digest(part: Any) -> str:
    """What tells the code behind a callable, its closure and the modules of one's own that it needs from any other's.

    Returns:
        "" where nothing of it is the user's own.
    """
    seen = _Seen()
    if isinstance(part, str):
        place, _, name = part.partition(":")
        if name and (module := _imported(place)) is not None:
            seen.module(module)
            seen.value(getattr(module, name, None))
    else:
        seen.value(part)
    return seen.digest


def _members(cls: type) -> dict[str, Any]:
    """What a class's own code has put into it."""
    members: dict[str, Any] = {}
    for name, member in vars(cls).items():
        ours = isinstance(member, FunctionType) and STANDS_FOR in vars(member)
        if not ours:
            members[name] = member
        elif vars(member)[STANDS_FOR] is not None:
            members[name] = vars(member)[STANDS_FOR]
    return members


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
    if before.get("python") != now.get("python", before.get("python")):
        return []
    return [name for name, digest in now.items() if name != "python" and before.get(name, digest) != digest]


class _Seen:
    """Collects what a piece of code consists of; each object counts once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._known: set[int] = set()
        self._kept: list[Any] = []  # an object that dies would leave its id to another
        self._read: set[str] = set()
        """Names of the modules whose source was read."""
        self._own = False

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16] if self._own else ""

    def value(self, value: Any) -> None:
        """A value that code refers to."""
        if isinstance(value, _PLAIN):
            self._add(type(value).__name__, repr(value))
        elif isinstance(value, list | set):  # what is gathered while a program runs is no code
            self._add(type(value).__name__, "")
        elif isinstance(value, tuple | frozenset):
            self._add(type(value).__name__, str(len(value)))
            for item in sorted(value, key=repr) if isinstance(value, frozenset) else value:
                self.value(item)
        elif isinstance(value, Mapping):
            self._add("mapping", str(len(value)))
            for key, item in value.items():
                self.value(key)
                self.value(item)
        elif id(value) not in self._known:
            self._known.add(id(value))
            self._kept.append(value)
            self._object(value)

    def _object(self, value: Any) -> None:
        if isinstance(value, ModuleType):
            self.module(value)
        elif isinstance(value, functools.partial):
            self.value((value.func, value.args, value.keywords))
        elif isinstance(value, MethodType):
            self.value((value.__func__, value.__self__))
        elif isinstance(value, FunctionType):
            self._function(value)
        elif isinstance(value, type):
            self._class(value)
        elif isinstance(value, property):
            self.value((value.fget, value.fset))
        elif isinstance(value, staticmethod | classmethod):
            self.value(value.__func__)
        elif isinstance(value, functools._lru_cache_wrapper) or hasattr(value, "__wrapped__"):
            self.value(value.__wrapped__)
        else:  # an object: what it does is its class's, and what it holds may move, unless it is there to hold settings
            self._add("object", type(value).__qualname__)
            self.value(type(value))
            if dataclasses.is_dataclass(value) or isinstance(value, SimpleNamespace | Namespace):
                self.value(dict(vars(value)) if hasattr(value, "__dict__") else ())

    def _function(self, function: FunctionType) -> None:
        if not _is_own(function.__module__):
            self._add("library", f"{function.__module__}.{function.__qualname__}")
            return
        self._own = True
        self._code(function.__code__)
        self.value((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.value(cell.cell_contents)
            except ValueError:  # not yet filled
                self._add("cell", "")
        read = self.module(sys.modules.get(function.__module__)) if function.__module__ != "__main__" else False
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                self._add("global", name)
                self._named(function.__globals__[name], read=read)

    def _class(self, cls: type) -> None:
        if not _is_own(cls.__module__):
            self._add("library", f"{cls.__module__}.{cls.__qualname__}")
            return
        self._own = True
        self._add("class", cls.__name__)
        for base in cls.__bases__:
            self.value(base)
        read = self.module(sys.modules.get(cls.__module__)) if cls.__module__ != "__main__" else False
        for name, member in sorted(_members(cls).items()):
            if not (name.startswith("__") and name.endswith("__")) or callable(member):
                self._add("member", name)
                self._named(member, read=read)

    def _named(self, value: Any, *, read: bool) -> None:
        """What a global or a class's member is: code, or data.

        The source of a module that was read says what data begin as; what has become of them is this process's state.
        """
        if not read or callable(value) or isinstance(value, property | staticmethod | classmethod | ModuleType):
            self.value(value)

    def _code(self, code: CodeType) -> None:
        self._add("code", code.co_code.hex())
        self._add("names", repr((code.co_names, code.co_varnames, code.co_freevars)))
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._code(constant)
            else:
                self.value(constant)

    def module(self, module: ModuleType | None) -> bool:
        """The source of a module of the user's own, and of those that it imports; whether it has one."""
        if module is None:
            return False
        if module.__name__ in self._read:
            return _own_file(module) is not None
        self._read.add(module.__name__)
        self._add("module", module.__name__)
        if (file := _own_file(module)) is not None:
            self._own = True
            status = file.stat()
            program, imports = _program(file, status.st_size, status.st_mtime_ns)
            self._add("source", program)
            for other in _modules_in(module, imports):
                self.module(other)
        return file is not None

    def _add(self, kind: str, text: str) -> None:
        self._hash.update(f"{kind}\0{text}\0".encode("utf-8", "surrogatepass"))


def _names(code: CodeType) -> Iterator[str]:
    """Global names that a code and those within it may look up."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _modules_in(module: ModuleType, imports: tuple[str, ...]) -> Iterator[ModuleType]:
    """Modules of the user's own among the names that a module imports."""
    for name in imports:
        with suppress(ImportError, ValueError):  # a relative one out of nothing
            absolute = resolve_name(name, getattr(module, "__package__", None) or "")
            place = sys.modules.get(absolute)
            if place is not None and place is not module and _own_file(place) is not None:
                yield place


def _imported_names(tree: ast.AST) -> Iterator[str]:
    """What a program imports, `from a import b` as a and a.b; relative names keep their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            place = "." * node.level + (node.module or "")
            yield place
            yield from (f"{place}.{alias.name}" if node.module else place + alias.name for alias in node.names)


def _is_own(module: str | None) -> bool:
    """Whether a module is the user's own: run as a script or in a notebook, or of a file outside of all libraries."""
    if module is None or module == "__main__":
        return True
    there = sys.modules.get(module)
    return there is None or _own_file(there) is not None


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Folders of Python and of what is installed."""
    paths = sysconfig.get_paths()
    ours = Path(__file__).resolve().parents[1]
    places = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(str(Path(place).resolve()) for place in (*places, str(Path(ast.__file__).parent), str(ours)))


def _own_file(module: ModuleType) -> Path | None:
    """The file of a module of the user's own; None of any other."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str) or not file.endswith(".py") or "site-packages" in file:
        return None
    path = Path(file).resolve()
    return None if str(path).startswith(_libraries()) else path


@functools.lru_cache(maxsize=256)
def _program(file: Path, size: int, changed: int) -> tuple[str, tuple[str, ...]]:
    """The program in a file, without comments and layout, and what it imports; its text where it can not be parsed.

    Read once for as long as size and time of its last change stay.
    """
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return "", ()
    try:
        tree = ast.parse(text)
        return ast.dump(tree), tuple(_imported_names(tree))
    except (SyntaxError, ValueError, RecursionError):
        return text, ()


def _imported(name: str) -> ModuleType | None:
    """A module that was imported for the run already, or can be."""
    try:
        return import_own(name)
    except (Exception, SystemExit):  # whatever it raises is told where it is used
        return None
