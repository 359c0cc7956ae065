"""The docstrings under settings, which help, `explain` and the site all show."""

import ast
import functools
import inspect
import sys
import textwrap
from dataclasses import is_dataclass
from itertools import pairwise

_KNOWN: dict[type, dict[str, str]] = {}


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those that it extends, each as one line."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _field_docs(cls)
    return _KNOWN[cls]


def _field_docs(cls: type) -> dict[str, str]:
    return {
        entry.target.id: " ".join(doc.value.value.split())
        for definition in (_definition(c) for c in cls.__mro__ if is_dataclass(c))
        for entry, doc in pairwise(definition.body)
        if isinstance(entry, ast.AnnAssign)
        and isinstance(entry.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }


def _definition(cls: type) -> ast.ClassDef:
    """A class as it is written."""
    known = _module(cls.__module__) if cls.__module__.startswith("proximo.") else {}
    if cls.__qualname__ not in known:  # of a notebook, or inside of something
        known = {cls.__qualname__: ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]}
    definition = known[cls.__qualname__]
    assert isinstance(definition, ast.ClassDef)
    return definition


@functools.cache  # to look for one class, `inspect` reads a whole module: a third of the time of reading options
def _module(name: str) -> dict[str, ast.stmt]:
    written = ast.parse(inspect.getsource(sys.modules[name])).body
    return {x.name: x for x in written if isinstance(x, ast.ClassDef)}
