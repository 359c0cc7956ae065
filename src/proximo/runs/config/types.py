"""Values from a TOML file against the type annotations of configuration fields."""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, Union

from proximo.core.schedules import as_setting

UNSET = "none"
"""What stands in a TOML file for None."""


class MismatchError(Exception):
    """A value is not of the annotated type; who catches it knows the key and the place. Its text, if any, is why."""


def convert(hint: Any, value: Any) -> Any:
    """`value` as `hint`, or MismatchError. Of a union the member of exactly this type wins over one that converts."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if float in arguments and str in arguments:  # a number that may be a schedule
            try:
                value = as_setting(value)
            except ValueError as error:
                raise MismatchError(str(error)) from error
        for member in sorted(arguments, key=lambda member: type(value) is not member):
            try:
                return convert(member, value)
            except MismatchError:
                continue
    elif origin is Literal:
        for choice in arguments:
            if type(choice) is type(value) and choice == value:
                return choice
    elif hint is tuple or origin is tuple:
        return _convert_tuple(arguments, value)
    elif _is_dict(hint) and isinstance(value, Mapping):
        return {name: convert(arguments[1] if arguments else Any, item) for name, item in value.items()}
    elif hint is Any or hint is object or (hint in (bool, int, float, str) and type(value) is hint):
        return value
    elif hint is float and type(value) is int and abs(value) <= sys.float_info.max:
        return float(value)
    elif hint is int and type(value) is float and value.is_integer():
        return int(value)  # TOML has no 1e6 that is an integer
    raise MismatchError


def _convert_tuple(arguments: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise MismatchError
    if not arguments:
        return tuple(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(convert(arguments[0], item) for item in value)
    if len(arguments) != len(value):
        raise MismatchError
    return tuple(convert(argument, item) for argument, item in zip(arguments, value, strict=True))


def expected(hint: Any) -> str:
    """The type in a user's words."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(expected(member) for member in arguments)
    if origin is Literal:
        return ("one of " if len(arguments) > 1 else "") + ", ".join(shown(choice) for choice in arguments)
    if hint is tuple or origin is tuple:
        if not arguments:
            return "a list"
        if arguments[-1] is Ellipsis:
            return f"a list, each item {expected(arguments[0])}"
        return f"a list of {len(arguments)} ({', '.join(map(expected, arguments))})"
    if _is_dict(hint):
        values = f" with each value {expected(arguments[1])}" if arguments else ""
        return f"a table{values}"
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text in quotes"}
    return {**words, type(None): f'"{UNSET}"'}.get(hint, "a table" if dataclasses.is_dataclass(hint) else str(hint))


def members(hint: Any) -> tuple[Any, ...]:
    """The members of a union; the type alone where it is none."""
    return typing.get_args(hint) if typing.get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_dict(hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    return isinstance(origin, type) and issubclass(origin, Mapping)


_LONGEST = 200
"""Characters of a value that a message shows."""


def shown(value: Any) -> str:
    """A value as the user wrote it; of an object, whose text may be pages, its kind."""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = repr(value)
    return f"a {type(value).__name__}" if "\n" in text or len(text) > _LONGEST else text
