"""Frozen dataclasses to TOML and back: complete when written, strict when read.

TOML has no null, so an unset field is written as `name = "none"`: leaving it out would read back as the default, which
need not be None.
"""

import dataclasses
import functools
import json
import math
import re
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from proximo.errors import UnknownKeyError, UserError, nearest
from proximo.runs.config.types import UNSET, MismatchError, convert, expected, members, shown
from proximo.runs.plugins import find_own, name_of_own

Config = TypeVar("Config")

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
KIND = "kind"
"""Key of what kind of run a configuration is of: a class attribute of that name, where it has one."""
USUAL = ("proximo.core.settings", "proximo.algorithms.ppo")
"""Where the classes of tables are defined that go without a name: PPO's settings, and PPO."""


def to_toml(config: Any) -> str:
    """Writes every field of a (nested) dataclass as TOML; `from_mapping` reads it back equal.

    Args:
        config: An instance of a frozen dataclass with the field types that `from_mapping` knows.

    Raises:
        UserError: A text cannot be written (a lone surrogate), or could not be told from an unset field.
    """
    kind = [f'{KIND} = "{config.kind}"'] if hasattr(type(config), KIND) else []
    return "\n".join([*kind, *_table_lines(config, prefix=())]).strip("\n") + "\n"


def from_mapping(cls: type[Config], mapping: Mapping[str, Any], *, where: str, base: Config | None = None) -> Config:
    """Builds a `cls` from a parsed TOML table and checks every key and type.

    A nested table changes the fields it names; a `dict` field is replaced whole.

    Args:
        cls: A frozen dataclass. Fields are int, float, bool, str, Literal, tuple, dict[str, scalar], dataclasses, and
            unions of these with None.
        mapping: Keys and values, as `tomllib` gives them.
        where: The place the user knows, for messages: "preset cartpole.toml".
        base: Where the keys that `mapping` leaves out come from; the defaults of `cls` when None.

    Raises:
        UserError: An unknown or missing key, a value of another type or out of its range.
    """
    if KIND in mapping and (kind := getattr(cls, KIND, None)) is not None:
        if mapping[KIND] != kind:
            raise UserError(f"{where} is of a run of kind {shown(mapping[KIND])}, and one of {kind!r} is asked for")
        mapping = {name: value for name, value in mapping.items() if name != KIND}
    return typing.cast("Config", _read_table(cls, mapping, prefix="", where=where, base=base))


def read_toml(path: Path) -> dict[str, Any]:
    """Parses a TOML file.

    Raises:
        UserError: The file cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror}): check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid TOML ({error}): correct it there") from error
    except RecursionError:
        raise UserError(f"{path} is nested too deep to be a configuration: correct it there") from None


def difference(a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    """What differs between two configurations of one class, as (dotted key, value in a, value in b)."""
    return list(_differences(a, b, ""))


def _differences(a: Any, b: Any, key: str) -> Iterator[tuple[str, Any, Any]]:
    if dataclasses.is_dataclass(a) and dataclasses.is_dataclass(b) and _alike(a, b):
        for field in dataclasses.fields(a):
            yield from _differences(getattr(a, field.name), getattr(b, field.name), _dotted(key, field.name))
    elif isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in [*a, *(name for name in b if name not in a)]:
            yield from _differences(a.get(name), b.get(name), _dotted(key, name))
    elif _name(a) != _name(b):
        yield _dotted(key, a.chosen_by if hasattr(a, "chosen_by") else b.chosen_by), _name(a), _name(b)
    elif a != b and not (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b)):
        yield key, a, b


def _alike(a: Any, b: Any) -> bool:
    return type(a) is type(b) or (hasattr(a, "chosen_by") and hasattr(b, "chosen_by") and _name(a) == _name(b) == "")


# Writing --------------------------------------------------------------------------------------------------------------


def _table_lines(table: Any, prefix: tuple[str, ...]) -> Iterator[str]:
    # TOML has no way back out of a table, so a table's own scalars come before its sub-tables.
    items = list(_items(table))
    if own := _name(table):
        yield f"{table.chosen_by} = {_text(own, table.chosen_by)}"
    for name, value, optional in items:
        if not _is_table(value):
            yield f"{_key(name)} = {_scalar(value, '.'.join((*prefix, name)), optional)}"
    for name, value, _ in items:
        if _is_table(value):
            path = (*prefix, name)
            yield f"\n[{'.'.join(map(_key, path))}]"
            yield from _table_lines(value, path)


def _items(table: Any) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(table, Mapping):
        for name, value in table.items():
            yield name, value, False
        return
    cls: type = type(table)
    hints = _hints(cls)
    for field in _fields(cls):
        yield field.name, getattr(table, field.name), type(None) in members(hints[field.name])


def _name(table: Any) -> str:
    """Name of a table's class where the table may be of several; "" of the one that it is without a name."""
    usual = not hasattr(type(table), "chosen_by") or type(table).__module__ in USUAL
    if usual:
        return ""
    return str(table.short_name(name_of_own(type(table), table.chosen_by)))


def _is_table(value: Any) -> bool:
    return isinstance(value, Mapping) or dataclasses.is_dataclass(value)


def _scalar(value: Any, key: str, optional: bool = False) -> str:
    if value is None and optional:
        return f'"{UNSET}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{int(value):_}"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        return _text(value, key, optional)
    if isinstance(value, tuple | list):
        return f"[{', '.join(_scalar(item, key) for item in value)}]"
    raise TypeError(f"configuration field {key!r} holds a {type(value).__name__}, which TOML cannot")


def _text(value: str, key: str, optional: bool = False) -> str:
    if optional and value == UNSET:
        raise UserError(f"{key} = {UNSET!r} would be read back as unset: use another word")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{key} = {value!r} is not valid text (UTF-8): give another") from error
    # JSON's escapes are a subset of TOML's; only DEL must be escaped in TOML and is not in JSON.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _text(name, name)


# Reading --------------------------------------------------------------------------------------------------------------


def _chosen(cls: type, mapping: Mapping[str, Any], prefix: str, where: str, base: Any) -> tuple[type, dict, Any]:
    """The class that a table is of, where it may name one of the user's own; the rest of it, and its base as such."""
    key, rest = getattr(cls, "chosen_by", ""), dict(mapping)
    if not key or key not in rest:
        return (type(base) if key and isinstance(base, cls) else cls), rest, base
    path = rest.pop(key)
    shipped: Mapping[str, str] = getattr(cls, "shipped", {})
    if not isinstance(path, str) or (path not in shipped and ":" not in path):
        alike = nearest(path, shipped) if isinstance(path, str) else ""
        hint = f"did you mean {alike}? There are" if alike else "it must be one of"
        raise UserError(
            f"{_dotted(prefix, key)} = {shown(path)} in {where}: {hint} {', '.join(shipped)}, or a class of your own, "
            "module:Name"
        )
    found = find_own(shipped.get(path, path), key)
    check_choice(found, cls, f"{key} {path}")
    if found.__module__ in USUAL:
        found = cls
    return found, rest, (_as(found, base) if isinstance(base, cls) and type(base) is not found else base)


def check_choice(found: Any, cls: type, name: str) -> None:
    """See that a class of the user's own may stand for a table's.

    Raises:
        UserError: it is not derived from the table's class, or has fields that dataclasses do not know.
    """
    if not (isinstance(found, type) and issubclass(found, cls)):
        raise UserError(f"{name} must be a frozen dataclass that is derived from proximo.algorithms.PPO")
    own = vars(found)
    if own.get("__annotations__") and not getattr(own.get("__dataclass_params__"), "frozen", False):
        raise UserError(f"{name} has settings of its own: write @dataclass(frozen=True) above its class")


def _as(cls: type, base: Any) -> Any:
    """The settings of `base` as those of a subclass, whose own defaults hold where it has given other ones."""
    theirs = {field.name: _default(field) for field in _fields(type(base))}
    shared = [field.name for field in _fields(cls) if field.name in theirs and _default(field) == theirs[field.name]]
    return cls(**{name: getattr(base, name) for name in shared})


def _read_table(cls: type, mapping: Mapping[str, Any], *, prefix: str, where: str, base: Any) -> Any:
    cls, mapping, base = _chosen(cls, mapping, prefix, where, base)
    hints = _hints(cls)
    fields = {field.name: field for field in _fields(cls)}
    for name in mapping:
        if name in getattr(cls, "lacks", ()) and mapping[name] != UNSET:
            raise UserError(f"{_dotted(prefix, name)} in {where}: {cls.refusal(name)}")  # type: ignore[attr-defined]
        if name not in fields:
            raise _unknown_key(cls, name, prefix, where)
    given: dict[str, Any] = {}
    for name, field in fields.items():
        if name in mapping:
            inner = getattr(base, name) if base is not None else _default(field)
            given[name] = _read(hints[name], mapping[name], key=_dotted(prefix, name), where=where, base=inner)
        elif base is None and field.default is field.default_factory is dataclasses.MISSING:
            raise UserError(f"missing key {_dotted(prefix, name)!r} in {where}: give it a value")
    try:
        return cls(**given) if base is None else dataclasses.replace(base, **given)
    except (ValueError, UserError) as error:  # what a __post_init__ finds wrong
        raise UserError(f"{error} (in {f'[{prefix}] of ' if prefix else ''}{where})") from error


def _read(hint: Any, value: Any, *, key: str, where: str, base: Any) -> Any:
    kinds = members(hint)
    if type(None) in kinds and (value is None or (isinstance(value, str) and value == UNSET)):
        return None  # None comes from Python, the word from a file
    tables = [member for member in kinds if dataclasses.is_dataclass(member)]
    if len(tables) > 1:
        raise TypeError(f"configuration field {key!r} may be one of several tables, which cannot be told apart")
    if tables and isinstance(value, typing.cast("type", tables[0])):  # from Python
        return typing.cast("type", tables[0])(**vars(value)) if type(value).__module__ in USUAL else value
    if tables and isinstance(value, Mapping):
        cls = typing.cast("type", tables[0])
        return _read_table(cls, value, prefix=key, where=where, base=base if isinstance(base, cls) else None)
    if (item := _table_of_list(hint)) and isinstance(value, list) and all(isinstance(row, Mapping) for row in value):
        rows = enumerate(value)
        return tuple(_read_table(item, row, prefix=f"{key}[{i}]", where=where, base=None) for i, row in rows)
    try:
        return convert(hint, value)
    except MismatchError as error:
        why = f": {error}" if str(error) else f" must be {expected(hint)}"
        raise UserError(f"{key} = {shown(value)} in {where}{why}") from None


def _table_of_list(hint: Any) -> type | None:
    """`Table` of a hint `tuple[Table, ...]`, None of any other."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is tuple and len(arguments) == 2 and dataclasses.is_dataclass(arguments[0]):
        return typing.cast("type", arguments[0])
    return None


def _unknown_key(cls: type, name: str, prefix: str, where: str) -> UnknownKeyError:
    names = [field.name for field in _fields(cls)]
    if alike := nearest(name, names, count=1):
        hint = f"did you mean {_dotted(prefix, alike)!r}?"
    elif inside := [key for key in _all_keys(cls, prefix) if key.rpartition(".")[2] == name]:
        hint = f"did you mean {inside[0]!r}?"
    else:
        hint = f"the keys there are {', '.join(names)}"
    return UnknownKeyError(f"unknown key {_dotted(prefix, name)!r} in {where}", hint, name)


def _all_keys(cls: type, prefix: str) -> Iterator[str]:
    hints = _hints(cls)
    for field in _fields(cls):
        yield _dotted(prefix, field.name)
        for member in members(hints[field.name]):
            if dataclasses.is_dataclass(member):
                yield from _all_keys(typing.cast("type", member), _dotted(prefix, field.name))


@functools.lru_cache(maxsize=64)
def _hints(cls: type) -> dict[str, Any]:
    """Types of a class's fields; to evaluate them takes as long as to write a whole table."""
    return typing.get_type_hints(cls)


def _fields(cls: Any) -> list[dataclasses.Field]:
    """Those that a file may hold: what a class lacks of its base's is no setting."""
    return [field for field in dataclasses.fields(cls) if field.init and field.name not in getattr(cls, "lacks", ())]


def _default(field: dataclasses.Field) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return None if field.default_factory is dataclasses.MISSING else field.default_factory()


def _dotted(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted name: `{"kl": {"coefficient": 0.05}}` -> `{"kl.coefficient": 0.05}`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
