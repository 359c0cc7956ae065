"""From the command line to dataclasses, for all verbs: numbers as people write them, and errors of one sentence."""

import io
import re
import shutil
import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from decimal import Decimal, InvalidOperation
from typing import Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from proximo.cli.forms import options_of
from proximo.errors import UserError
from proximo.foreign_options import answered


def _whole(arguments: list[str]) -> int:
    try:  # not by way of a float, which has no room for every digit of a long number
        value = Decimal(arguments[0])
    except InvalidOperation:
        raise ValueError(f"{arguments[0]} is not a whole number") from None
    if not value.is_finite() or value != value.to_integral_value():
        raise ValueError(f"{arguments[0]} is not a whole number")
    return int(value)


# 1e6 is how people write a million steps.
_WHOLE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="INT",
    instance_from_str=_whole,
    is_instance=lambda x: isinstance(x, int),
    str_from_instance=lambda x: [str(x)],
)
# As config.toml writes it, and as Python does.
_NONE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="none",
    choices=("none", "None"),
    instance_from_str=lambda _: None,
    is_instance=lambda x: x is None,
    str_from_instance=lambda _: ["none"],
)
_REGISTRY = tyro.constructors.ConstructorRegistry()


@_REGISTRY.primitive_rule
def _unset(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _NONE if info.type is type(None) else None


@_REGISTRY.primitive_rule
def _whole_numbers(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _WHOLE if info.type is int else None


def parse(
    cls: Any,
    arguments: Sequence[str],
    verb: str,
    *,
    foreign: Mapping[str, str] | None = None,
    description: str | None = None,
    usage: str = "",
    advice: str = "",
) -> Any:
    """The options of a verb.

    Args:
        cls: dataclass whose fields are the options.
        arguments: as given.
        verb: for help and errors.
        foreign: what other libraries call our options, see `foreign_options`.
        description: of the verb; None is the docstring of `cls`.
        usage: what stands behind the verb in the help's first line.
        advice: the end of an error; "" refers to the help.

    Raises:
        UserError: an option that does not exist or does not fit, in one sentence.
    """
    arguments = spelled(arguments, cls)
    with refusals(verb, advice):
        try:
            return _read(cls, arguments, prog=f"proximo {verb}{usage}", description=_filled(description or cls.__doc__))
        except ValueError as error:
            raise ValueError(answered(arguments, foreign or {}, dict(options_of(cls))) or error) from None


@contextmanager
def refusals(verb: str, advice: str = "") -> Iterator[None]:
    """Values that settings refuse, as an error that names the way to the help, or gives `advice`."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{error}; {advice or f'`proximo {verb} --help` lists the options'}") from None


def peek(cls: Any, arguments: Sequence[str]) -> Any:
    """Options that decide how the others are read: the fields of `cls`, among arguments that may hold any others.

    Raises:
        UserError: an option has no value.
    """
    try:
        return _read(cls, arguments, return_unknown_args=True, add_help=False)[0]
    except ValueError as error:
        raise UserError(str(error)) from None


def without(arguments: Sequence[str], names: Collection[str]) -> list[str]:
    """Arguments less the options of these names and their one value each.

    Args:
        arguments: that were read before, so that each of the options has its value.
        names: of options.
    """
    left, taken = list[str](), False
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if option.startswith("--") and _plain(option) in names:
            taken = not equals
        elif taken:
            taken = False
        else:
            left.append(argument)
    return left


def _filled(text: str) -> str:
    """Text as wide as the terminal. Tyro keeps a line break only where the next line opens with no letter."""
    width = min(shutil.get_terminal_size().columns, 100)
    return textwrap.fill(" ".join(text.split()), width, initial_indent=" ", subsequent_indent=" ")


def command(cls: Any, verb: str, foreign: Mapping[str, str] | None = None) -> Callable[[list[str]], int]:
    """A verb whose options are the fields of the dataclass `cls`, and whose work is a call of it."""
    return lambda arguments: int(parse(cls, arguments, verb, foreign=foreign)())


def _read(cls: Any, arguments: Sequence[str], **options: Any) -> Any:
    """The dataclass that tyro reads, or ValueError in place of the box that it draws."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            return tyro.cli(
                cls,
                args=list(arguments),
                config=(tyro.conf.PositionalMetavarFromFieldName,),
                registry=_REGISTRY,
                **options,
            )
    except SystemExit as ending:
        if ending.code != 2:
            raise
        raise ValueError(_sentence(said.getvalue())) from None


def spelled(arguments: Iterable[str], cls: Any) -> list[str]:
    """Arguments as the parser reads them, however they are written.

    Lists of numbers as 256,256 or [256, 256]; seeds as 0..9, both ends among them; activations in any case; flags as
    --flag true or --flag false; tables as --options.KEY VALUE.

    Args:
        arguments: as typed.
        cls: dataclass whose fields are the options.
    """
    kinds = dict(options_of(cls))
    words: list[str] = []
    option = ""
    for argument in arguments:
        is_option = argument.startswith("--")
        option, equals, value = argument.partition("=") if is_option else (option, "", argument)
        kind = kinds.get(_plain(option))
        table, _, key = option.partition(".")
        if is_option and key and kind is None and _plain(table) in TABLES:
            words += [table, key, *([value] if equals else [])]
        elif isinstance(kind, bool) and value.lower() in ("true", "false"):
            words[len(words) if is_option else -1 :] = [option if value.lower() == "true" else _negated(option)]
        elif _plain(option) == "seeds" and isinstance(kind, tuple) and (ends := _RANGE.fullmatch(value)):
            words += [*([option] if is_option else []), *_range(int(ends[1]), int(ends[2]))]
        elif isinstance(kind, tuple) and _plain(option) not in TABLES and _LIST.fullmatch(value):
            words += [*([option] if is_option else []), *re.findall(_NUMBER, value)]
        elif option.endswith("activation"):
            words.append(f"{option}{equals}{value.lower()}" if is_option else value.lower())
        else:
            words.append(argument)
    return words


TABLES = ("options", "rewards", "symmetry.observations")
"""Options that are tables of free keys."""


def _plain(option: str) -> str:
    return option.removeprefix("--").replace("_", "-")


def _negated(option: str) -> str:
    before, dot, name = option.removeprefix("--").rpartition(".")
    return f"--{before}{dot}no-{name}"


_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def _range(first: int, last: int) -> list[str]:
    if last < first or last - first >= 10**4:
        raise UserError(f"{first}..{last} is no range of seeds: give the smaller one first, as --seeds 0..9")
    return [str(seed) for seed in range(first, last + 1)]


_NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
_LIST = re.compile(rf"[\[(]\s*{_NUMBER}(\s*,\s*{_NUMBER})*\s*,?\s*[\])]|{_NUMBER}(\s*,\s*{_NUMBER})+", re.IGNORECASE)


_CLEARER = (
    (r"Unrecognized options: (--?[A-Za-z][^\s,]*).*", r"there is no option \1"),
    (r"Unrecognized options: ([^,]*).*", r"\1 is one word too many"),
    (r"Missing value for argument '(--[\w.-]+)'.*", r"\1 has no value: give one after it"),
    (r"Missing from proximo [\w -]+: (\S+) (.*?)\.? \(required\).*", r"\1 is missing: \2"),
    (r"Error parsing (--\S+): no type matching (\S+) could be \w+ from \['(.*?)'\].*", r"\1 must be \2, not \3"),
    (r"Error parsing (--\S+): Could not find valid parse for arguments: \[(.*)\].*", r"\1 can not be read from \2"),
    (r"Error parsing (--\S+): ", r"\1: "),
    (r"Error parsing [A-Za-z]\w*: ", ""),  # of a class, which says nothing to who typed an option
)
"""Beginnings of tyro's messages, in our words."""


def _sentence(box: str) -> str:
    """The first paragraph of the box that tyro draws, and the options that it thinks were meant."""
    drawn = [line.rstrip() for line in box.splitlines()]
    framed = any(line.startswith("╭") for line in drawn)  # else a title, ruled off, in plain ASCII
    lines = [line.strip(" │") for line in drawn if not line.startswith(("╭", "╰"))]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line and set(line) <= set("─-"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    first, *others = paragraphs[not framed :] or [[]]
    meant = [found[0] for p in others if "Perhaps you meant:" in p for x in p if (found := re.match(r"--[\w.-]+", x))]
    hint = f": did you mean {' or '.join(dict.fromkeys(meant))}?" if meant else ""
    text = " ".join(filter(None, first)).rstrip(".") or "the options can not be read"
    for pattern, words in _CLEARER:
        text = re.sub(f"^{pattern}", words, text)
    return text[0].lower() + text[1:] + hint if text[1:2].islower() else text + hint
