"""Modules of the user's own: their files, what is in these, and what they import; none of them is run for it."""

import ast
import functools
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec, resolve_name
from pathlib import Path
from types import ModuleType

from proximo.errors import FOREIGN
from proximo.runs.plugins import import_own

PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
"""Types of values that are what they show."""


def own_names(imports: tuple[str, ...], package: str) -> Iterator[str]:
    """Modules of the user's own among the names that a module of a package imports."""
    for name in imports:
        with suppress(ImportError, ValueError):  # a relative one out of nothing
            absolute = resolve_name(name, package)
            parent = absolute.rpartition(".")[0]
            above = own_source(parent) if parent else None
            # To look for what is in a module that is no package, Python would run it.
            within = not parent or (above is not None and above.name == "__init__.py")
            if within and own_source(absolute) is not None:
                yield absolute


def own_source(name: str) -> Path | None:
    """The file of a module of the user's own, whether it has been imported yet or not; None of any other."""
    if name in sys.modules:
        return own_file(getattr(sys.modules[name], "__file__", None))
    try:
        spec = find_spec(name)
    except Exception:  # a parent that is no package, or fails: what that means is told where it is used
        return None
    return None if spec is None else own_file(spec.origin)


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Imports of a program, `from a import b` as a and a.b; relative names keep their dots."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            place = "." * node.level + (node.module or "")
            yield place
            yield from (f"{place}.{alias.name}" if node.module else place + alias.name for alias in node.names)


def is_own(module: str | None) -> bool:
    """True if a module is the user's own: run as a script or in a notebook, or of a file outside of all libraries."""
    if module is None or module == "__main__":
        return True
    return module not in sys.modules or own_source(module) is not None


@functools.cache
def libraries() -> tuple[Path, ...]:
    """Folders of Python and of what is installed."""
    paths = sysconfig.get_paths()
    ours = Path(__file__).resolve().parents[2]
    places = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(place.resolve() for place in (*map(Path, places), Path(ast.__file__).parent, ours))


def own_file(file: str | None) -> Path | None:
    """A file of Python if it is the user's own."""
    if not isinstance(file, str) or not file.endswith(".py") or "site-packages" in file:
        return None
    path = Path(file).resolve()
    within = any(path.is_relative_to(place) for place in libraries())
    return None if within else path


@dataclass(frozen=True)
class Program:
    """Content of a file."""

    text: str
    """The program without comments and layout; as it is where it can not be parsed."""
    imports: tuple[str, ...] = ()
    literals: tuple[tuple[str, str], ...] = ()
    """Names that it gives a plain value, once and outside of functions, and how that value is written."""


def program_in(file: Path) -> Program:
    """The program in a file, read once for as long as size and time of its last change stay."""
    try:
        status = file.stat()
    except OSError:
        return Program("")
    return _program(file, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _program(file: Path, size: int, changed: int) -> Program:
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return Program("")
    try:
        tree = ast.parse(text)
        return Program(ast.dump(tree), tuple(imported_names(tree)), tuple(_literals(tree)))
    except (SyntaxError, ValueError, RecursionError):
        return Program(text)


def _literals(tree: ast.Module) -> Iterator[tuple[str, str]]:
    stored = Counter(
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    )
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(target := node.targets[0], ast.Name):
            with suppress(ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
                value = ast.literal_eval(node.value)
                if stored[target.id] == 1 and isinstance(value, PLAIN):
                    yield target.id, repr(value)


def imported(name: str) -> ModuleType | None:
    """A module that was imported for the run already, or can be."""
    try:
        return import_own(name)
    except FOREIGN:  # whatever it raises is told where it is used
        return None
