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
import weakref
from argparse import Namespace
from collections.abc import Iterator, Mapping
from contextlib import suppress
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

from proximo.errors import FOREIGN, UserError
from proximo.runs.plugins import import_own
from proximo.runs.storage.files import parse_json, write_atomically
from proximo.runs.storage.folder import RunFolder

STANDS_FOR = "_proximo_stands_for"
"""The attribute of a method that is ours for a while: the class's own that it stands for, None for an inherited one."""
_FILE = "identity.json"
_LARGE = 1_000_000  # numbers of an array beyond which only its shape counts
_WRAPPED = ("env", "_spec", "spec")  # of Gymnasium's wrappers and environments
_FIRST: dict[int, tuple["weakref.ref[Any]", str]] = {}
"""Digests of objects as they were first seen, by their ids."""
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))


def identity(parts: Mapping[str, Any]) -> dict[str, str]:
    """What tells the code of some callables from any other: 16 hexadecimal digits each, and Python's version.

    Args:
        parts: by a name for messages, a callable, an object whose class and contents count, or `module:function`.
    """
    digests = {name: digest for name, part in parts.items() if (digest := code_digest(part))}
    return {"python": platform.python_version(), **digests} if digests else {}


def code_digest(part: Any) -> str:
    """What tells the code behind a callable, its closure and the modules of one's own that it needs from any other's.

    What an object is made of is looked at when it is first seen: what it has become by a later call, as a list that a
    training has filled, is no other code.

    Args:
        part: a callable, an object, `module:function`, or a tuple of these and of numbers.

    Returns:
        "" where nothing of it is the user's own.
    """
    if isinstance(part, tuple):
        digests = [repr(each) if isinstance(each, int | float) else code_digest(each) for each in part]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()[:16] if any(digests) else ""
    if isinstance(part, str):
        return _digest_of(part)
    known = _FIRST.get(id(part))
    if known is not None and known[0]() is part:
        return known[1]
    digest = _digest_of(part)
    with suppress(TypeError):  # what can not be referred to weakly is looked at each time
        _FIRST[id(part)] = weakref.ref(part), digest
    return digest


def _digest_of(part: Any) -> str:
    seen = _Seen()
    if isinstance(part, str):
        place, _, name = part.partition(":")
        if name and (module := _imported(place)) is not None:
            seen.module(module.__name__)
            seen.value(getattr(module, name, None))
    else:
        seen.value(part)
        seen.own = seen.own or not callable(part)  # an object is what its maker has made it, whoever wrote its class
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
    if now and before.get("python") != now["python"]:
        return []
    names = dict.fromkeys([*now, *before])
    return [name for name in names if name != "python" and before.get(name) != now.get(name)]


class _Seen:
    """Collects what a piece of code consists of; each object counts once."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self._known: set[int] = set()
        self._kept: list[Any] = []  # an object that dies would leave its id to another
        self._read: set[str] = set()
        """Names of the modules whose source was read."""
        self.own = False

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()[:16] if self.own else ""

    def value(self, value: Any) -> None:
        """A value that code refers to."""
        if isinstance(value, _PLAIN):
            self._add(type(value).__name__, repr(value))
        elif isinstance(value, tuple | frozenset):
            self._items(value)
        elif id(value) not in self._known:
            self._known.add(id(value))
            self._kept.append(value)
            if isinstance(value, list | set):
                self._items(value)
            elif isinstance(value, Mapping):
                self._add("mapping", str(len(value)))
                for key, item in list(value.items()):
                    self.value(key)
                    self.value(item)
            else:
                self._object(value)

    def _items(self, value: Any) -> None:
        self._add(type(value).__name__, str(len(value)))
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else list(value):
            self.value(item)

    def _object(self, value: Any) -> None:
        if isinstance(value, ModuleType):
            self.module(value.__name__)
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
        elif type(value).__module__.partition(".")[0] in ("numpy", "torch") and hasattr(value, "dtype"):
            self._array(value)
        else:  # an object: what it does is its class's, and what it does it with is what it holds
            self._add("object", type(value).__qualname__)
            self.value(type(value))
            self._held(value)

    def _array(self, value: Any) -> None:
        """An array or a scalar of numpy's, or a tensor; without importing either, for `proximo --help` reads this."""
        numbers = value.detach().cpu().float().numpy() if hasattr(value, "detach") else value
        self._add("array", f"{value.dtype} {tuple(value.shape)}")
        if numbers.size <= _LARGE:
            self._add("numbers", numbers.tobytes().hex() if numbers.dtype != object else repr(numbers))

    def _held(self, value: Any) -> None:
        """What an object holds; of a library's, its settings and what it wraps."""
        own = _is_own(type(value).__module__) or dataclasses.is_dataclass(value)
        own = own or isinstance(value, SimpleNamespace | Namespace)
        for name, item in sorted(getattr(value, "__dict__", {}).items()):
            setting = isinstance(item, (*_PLAIN, tuple, list, Mapping)) or callable(item) or name in _WRAPPED
            if own or setting:
                self._add("held", name)
                self.value(item)

    def _function(self, function: FunctionType) -> None:
        if not _is_own(function.__module__):
            self._add("library", f"{function.__module__}.{function.__qualname__}")
            return
        self.own = True
        self._code(function.__code__)
        self.value((function.__defaults__, function.__kwdefaults__))
        for cell in function.__closure__ or ():
            try:
                self.value(cell.cell_contents)
            except ValueError:  # not yet filled
                self._add("cell", "")
        read = self.module(function.__module__) if function.__module__ != "__main__" else False
        for name in sorted(set(_names(function.__code__))):
            if name in function.__globals__:
                self._add("global", name)
                self._named(function.__globals__[name], read=read)

    def _class(self, cls: type) -> None:
        if not _is_own(cls.__module__):
            self._add("library", f"{cls.__module__}.{cls.__qualname__}")
            return
        self.own = True
        self._add("class", cls.__name__)
        for base in cls.__bases__:
            self.value(base)
        read = self.module(cls.__module__) if cls.__module__ != "__main__" else False
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

    def module(self, name: str) -> bool:
        """The source of a module of the user's own, and of those that it imports, at once or later; if it has one."""
        file = _own_source(name)
        if name in self._read:
            return file is not None
        self._read.add(name)
        self._add("module", name)
        if file is not None:
            self.own = True
            status = file.stat()
            program, imports = _program(file, status.st_size, status.st_mtime_ns)
            self._add("source", program)
            package = name if file.name == "__init__.py" else name.rpartition(".")[0]
            for other in _own_names(imports, package):
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


def _own_names(imports: tuple[str, ...], package: str) -> Iterator[str]:
    """Modules of the user's own among the names that a module of a package imports."""
    for name in imports:
        with suppress(ImportError, ValueError):  # a relative one out of nothing
            absolute = resolve_name(name, package)
            parent = absolute.rpartition(".")[0]
            above = _own_source(parent) if parent else None
            # To look for what is in a module that is no package, Python would run it.
            within = not parent or (above is not None and above.name == "__init__.py")
            if within and _own_source(absolute) is not None:
                yield absolute


def _own_source(name: str) -> Path | None:
    """The file of a module of the user's own, whether it has been imported yet or not; None of any other."""
    if name in sys.modules:
        return _own_file(getattr(sys.modules[name], "__file__", None))
    try:
        spec = find_spec(name)
    except Exception:  # a parent that is no package, or fails: what that means is told where it is used
        return None
    return None if spec is None else _own_file(spec.origin)


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
    return module not in sys.modules or _own_source(module) is not None


@functools.cache
def _libraries() -> tuple[str, ...]:
    """Folders of Python and of what is installed."""
    paths = sysconfig.get_paths()
    ours = Path(__file__).resolve().parents[2]
    places = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(str(Path(place).resolve()) for place in (*places, str(Path(ast.__file__).parent), str(ours)))


def _own_file(file: str | None) -> Path | None:
    """A file of Python if it is the user's own."""
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
    except FOREIGN:  # whatever it raises is told where it is used
        return None
