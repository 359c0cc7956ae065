"""Settings as options: a dataclass for the parser, made from a settings class and arranged for its help."""

import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import Field, dataclass, field, fields, is_dataclass, make_dataclass
from typing import Annotated, Any

import tyro

from proximo.errors import UserError
from proximo.runs.config.docs import field_docs

SAYS_ITS_DEFAULT = tyro.conf.arg(help_behavior_hint="")
"""Of an option whose help names its default, or has none to name."""
Flag = tyro.conf.FlagCreatePairsOff[Annotated[bool, SAYS_ITS_DEFAULT]]
"""A flag that is given or not, without a --no- twin."""
Table = tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]]
"""Words of a table of free keys, one tuple for each time that its option is given."""


Scalar = bool | int | float | str


@dataclass(frozen=True)
class Layout:
    """Order of a settings class's options in the help."""

    first: tuple[str, ...] = ()
    """Settings that people use most."""
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Settings with a heading of their own, by heading; those named nowhere come under `more`."""
    hidden: tuple[str, ...] = ()
    """Settings that are no options."""


_SHORTER = {"start_from": ("--from",)}
"""Settings that have a second name as options, which Python has no room for."""


def form(default: Any, layout: Layout, *, head: Any = None, **parts: Any) -> type:
    """A dataclass whose fields are the options of a verb.

    Args:
        default: settings that the options change.
        layout: their order in the help.
        head: dataclass instance whose fields are options too, before all others; they change no settings.
        parts: the same, under headings of their own.
    """
    given = {x.name: is_dataclass(getattr(default, x.name)) for x in fields(default)}
    known = {*layout.first, *layout.hidden, *(name for names in layout.groups.values() for name in names)}
    groups = {**layout.groups, "more": tuple(n for n, nested in given.items() if not nested and n not in known)}
    apart = () if head is None else _entries(head, (x.name for x in fields(head)))
    entries = [(name, kind, field(default=x.default, metadata={"apart": True})) for name, kind, x in apart]
    entries += [*_entries(default, layout.first), *_entries(default, (n for n in given if given[n] and n not in known))]
    for heading, names in groups.items():
        if names:
            entries += [_flat(heading, make_dataclass(heading, _entries(default, names, flat=True), frozen=True)())]
    return make_dataclass("Options", [*entries, *(_flat(name, part) for name, part in parts.items())], frozen=True)


def changes(filled: Any, default: Any) -> dict[str, Any]:
    """Settings of `default` as the options in `filled`, an instance of its form, give them.

    Raises:
        ValueError: nested settings refuse their values.
        UserError: a key of a table has no value.
    """
    found: dict[str, Any] = {}
    for entry in fields(filled):
        value = getattr(filled, entry.name)
        if entry.metadata.get("flat"):
            found |= changes(value, default)
        elif entry.metadata.get("apart") or not hasattr(default, entry.name):
            continue
        elif is_dataclass(value):
            inner = getattr(default, entry.name)
            found[entry.name] = type(inner)(**changes(value, inner))
        elif isinstance(getattr(default, entry.name), Mapping):
            texts = typing.get_args(typing.get_type_hints(type(default))[entry.name])[1:] == (str,)
            found[entry.name] = table(f"--{entry.name}", value, str if texts else _scalar)
        else:
            found[entry.name] = value
    return found


def table(name: str, given: Iterable[Sequence[str]], read: Callable[[str], Scalar] | None = None) -> dict[str, Scalar]:
    """A table of free keys, each option `NAME KEY VALUE [KEY VALUE ...]` or `NAME KEY=VALUE`.

    A value is true or false, a number if it can be read as one, else text; keys are as they are written.

    Args:
        name: of the option, for errors.
        given: words of each time that it is given.
        read: of a value, where all are of one kind.

    Raises:
        UserError: a key has no value.
    """
    found: dict[str, Scalar] = {}
    for words in given:
        if not words:
            raise UserError(f"{name} names nothing: give it as {name} KEY VALUE")
        waiting = list(words)
        while waiting:
            key = waiting.pop(0)
            before, equals, value = key.partition("=")
            if equals and before.isidentifier():  # a folder's name may hold one too
                key, waiting[:0] = before, [value]
            if not waiting:
                raise UserError(f"{name} {key} has no value: give one after it")
            found[key] = (read or _scalar)(waiting.pop(0))
    return found


def _scalar(text: str) -> Scalar:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def options_of(options: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Options as they are typed, without dashes before them, and their defaults.

    Args:
        options: dataclass, or an instance of one.
        before: prefix of their names.
    """
    for entry in fields(options):
        name, default = before + entry.name.replace("_", "-"), getattr(options, entry.name, entry.default)
        if is_dataclass(default):
            yield from options_of(default, before if entry.metadata.get("flat") else f"{name}.")
        else:
            yield name, default


def _entries(default: Any, names: Iterable[str], *, flat: bool = False) -> Iterator[tuple[str, Any, Any]]:
    """Fields of a form: name, type with its help, and default."""
    cls = type(default)
    hints, docs = typing.get_type_hints(cls, include_extras=True), field_docs(cls)
    for name in names:
        value, prefix = getattr(default, name), False if flat else None
        if is_dataclass(value):
            lacks = getattr(value, "lacks", ())
            names_inside = (x.name for x in fields(value) if x.name not in lacks)
            inner = make_dataclass(name, _entries(value, names_inside), frozen=True)
            # Said here: what has no help is looked for in the sources of a class, and this class has none.
            told = tyro.conf.arg(help=(type(value).__doc__ or "").partition("\n")[0])
            yield name, Annotated[inner, told], field(default=inner())
        elif isinstance(value, Mapping):
            shown = tyro.conf.arg(help=docs.get(name), metavar="KEY VALUE ...", prefix_name=prefix)
            yield name, Annotated[Table, shown], field(default=())
        else:
            says = value in ("", ()) or "default:" in docs.get(name, "")
            hint, others = "" if says else None, _SHORTER.get(name)
            shown = tyro.conf.arg(help=docs.get(name), prefix_name=prefix, help_behavior_hint=hint, aliases=others)
            yield name, Annotated[hints[name], shown], field(default=value)


def _flat(name: str, part: Any) -> tuple[str, Any, Field]:
    """A field whose own fields have its name as heading, not as prefix."""
    told = tyro.conf.arg(help=type(part).__doc__ if type(part).__module__ != "types" else "")
    kind = Annotated[type(part), tyro.conf.OmitArgPrefixes, told]  # type: ignore[valid-type]
    return name, kind, field(default=part, metadata={"flat": True})
