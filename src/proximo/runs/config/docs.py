"""The docstrings under settings, which help, `explain` and the site all show."""

import ast
import inspect
import textwrap
import typing
from dataclasses import is_dataclass
from itertools import pairwise


def field_docs(cls: type) -> dict[str, str]:
    """The docstrings under the fields of a dataclass and of those that it extends, each as one line."""
    bodies = (ast.parse(textwrap.dedent(inspect.getsource(c))).body[0] for c in cls.__mro__ if is_dataclass(c))
    return {
        entry.target.id: " ".join(doc.value.value.split())
        for body in bodies
        for entry, doc in pairwise(typing.cast("ast.ClassDef", body).body)
        if isinstance(entry, ast.AnnAssign)
        and isinstance(entry.target, ast.Name)
        and isinstance(doc, ast.Expr)
        and isinstance(doc.value, ast.Constant)
        and isinstance(doc.value.value, str)
    }
