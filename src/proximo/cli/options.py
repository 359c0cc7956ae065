"""Options to dataclasses, for all verbs: numbers as people write them, and errors of one sentence."""

import io
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from proximo.cli.foreign_options import answered
from proximo.errors import UserError
from proximo.runs.session.opening import Call

CALL_HELP = """
Of this call, not of the run:
  --stop-at N        end early with a checkpoint, as a preemption would; the same command goes on
  --fresh [--yes]    delete the run that is in the folder and start over (--yes: without asking)
  --allow-change     go on with settings that differ from the folder's; they are recorded in its config.toml
  --quiet, --json    show no progress; print one JSON object instead of text
"""


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
_REGISTRY = tyro.constructors.ConstructorRegistry()


def _truth(arguments: list[str]) -> bool:
    words = {"true": True, "false": False}
    if arguments[0].lower() not in words:
        raise ValueError(f"{arguments[0]} is neither true nor false")
    return words[arguments[0].lower()]


# As config.toml writes it, and as Python does.
_TRUTH = PrimitiveConstructorSpec(
    nargs=1,
    metavar="true|false",
    instance_from_str=_truth,
    is_instance=lambda x: isinstance(x, bool),
    str_from_instance=lambda x: [str(x).lower()],
)
_NONE = PrimitiveConstructorSpec(
    nargs=1,
    metavar="none",
    choices=("none", "None"),
    instance_from_str=lambda _: None,
    is_instance=lambda x: x is None,
    str_from_instance=lambda _: ["none"],
)


@_REGISTRY.primitive_rule
def _unset(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _NONE if info.type is type(None) else None


@_REGISTRY.primitive_rule
def _truths(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _TRUTH if info.type is bool else None


@_REGISTRY.primitive_rule
def _whole_numbers(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _WHOLE if info.type is int else None


def parse(
    cls: Any,
    arguments: Sequence[str],
    verb: str,
    default: Any = tyro.MISSING_NONPROP,
    more_help: str = "",
    foreign: Mapping[str, str] | None = None,
) -> Any:
    """The options of a verb.

    Args:
        cls: dataclass whose fields are the options.
        arguments: as given.
        verb: for help and errors.
        default: what the options change.
        more_help: printed after the options where help is asked for.
        foreign: what other libraries call our options, see `foreign_options`.

    Raises:
        UserError: an option that does not exist or does not fit, in one sentence.
    """
    arguments = as_lists(arguments, cls)
    extra = {} if default is tyro.MISSING_NONPROP else {"default": default}
    said = io.StringIO()
    try:
        with _REGISTRY, redirect_stderr(said):
            return tyro.cli(
                cls, prog=f"proximo {verb}", args=list(arguments), config=(tyro.conf.FlagConversionOff,), **extra
            )
    except SystemExit as ending:
        if ending.code != 2:
            print(more_help, end="")
            raise
        sentence = answered(arguments, foreign or {}, dict(options_of(cls))) or _sentence(said.getvalue())
        raise UserError(f"{sentence}; `proximo {verb} --help` lists the options") from None


def command(cls: Any, verb: str, foreign: Mapping[str, str] | None = None) -> Callable[[list[str]], int]:
    """A verb whose options are the fields of the dataclass `cls`, and whose work is a call of it."""
    return lambda arguments: int(parse(cls, json_flag(arguments), verb, foreign=foreign)())


def as_lists(arguments: Sequence[str], cls: Any) -> list[str]:
    """Numbers of an option that takes several, written as one list: 256,256 or [256, 256]; and names of activations in
    small letters.

    Args:
        arguments: as typed.
        cls: dataclass whose fields are the options.
    """
    kinds = dict(options_of(cls))
    parts: list[str] = []
    before = ""
    for argument in arguments:
        name, equals, value = argument.partition("=")
        several = isinstance(kinds.get(_plain(name if equals else before)), tuple)
        if argument.startswith("--") and equals and several and _LIST.fullmatch(value):
            parts += [name, *re.findall(_NUMBER, value)]
        elif argument.startswith("--"):
            parts.append(f"{name}={value.lower()}" if equals and name.endswith("activation") else argument)
        elif several and _LIST.fullmatch(argument):
            parts += re.findall(_NUMBER, argument)
        else:
            parts.append(argument.lower() if before.endswith("activation") else argument)
        before = argument if argument.startswith("--") else ""
    return parts


def _plain(option: str) -> str:
    return option.removeprefix("--").replace("_", "-")


_NUMBER = r"-?[\d.]+(?:e[+-]?\d+)?"
_LIST = re.compile(rf"[\[(]\s*{_NUMBER}(\s*,\s*{_NUMBER})*\s*,?\s*[\])]|{_NUMBER}(\s*,\s*{_NUMBER})+", re.IGNORECASE)


def options_of(cls: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Options of a dataclass as they are typed, without dashes before them, and their defaults."""
    for field in fields(cls):
        name = before + field.name.replace("_", "-")
        made = field.default_factory() if field.default_factory is not MISSING else field.default
        if is_dataclass(made):
            yield from options_of(made, f"{name}.")
        else:
            yield name, made


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
    text = re.sub(r"^Error parsing [A-Z]\w+: ", "", text)  # of a class, which says nothing to who typed an option
    return text[0].lower() + text[1:] + hint


def flag(arguments: list[str], name: str) -> bool:
    """Take a flag out of the arguments."""
    found = name in arguments
    while name in arguments:
        arguments.remove(name)
    return found


def option(arguments: Sequence[str], name: str, fallback: str) -> str:
    """Read an option that decides how the others are read."""
    for i, argument in enumerate(arguments):
        if argument == name and i + 1 < len(arguments):
            return arguments[i + 1]
        if argument.startswith(f"{name}="):
            return argument.partition("=")[2]
    return fallback


def take_option(arguments: list[str], name: str) -> str | None:
    """Take an option and its value out of the arguments; None if it is not there.

    Raises:
        UserError: it has no value.
    """
    found = None
    for i in reversed(range(len(arguments))):
        given, equals, value = arguments[i].partition("=")
        if given != name:
            continue
        if not equals and i + 1 == len(arguments):
            raise UserError(f"{name} has no value: give one after it")
        found = value if equals else arguments[i + 1]
        del arguments[i : i + (1 if equals else 2)]
    return found


def take_table(arguments: list[str], name: str) -> dict[str, bool | int | float | str]:
    """Take a table of free keys out of the arguments: `NAME KEY VALUE [KEY VALUE ...]`, `NAME KEY=VALUE` or
    `NAME.KEY VALUE`, repeated.

    A value is true or false, a number if it can be read as one, else text; keys are as they are written.

    Raises:
        UserError: a key has no value.
    """
    table: dict[str, bool | int | float | str] = {}
    left, waiting = [], list(arguments)
    while waiting:
        given, equals, value = waiting.pop(0).partition("=")
        if given.startswith(f"{name}."):
            table[given.removeprefix(f"{name}.")] = _scalar(value if equals else _value_of(given, waiting))
        elif given == name:
            waiting[:0] = [value] if equals else []
            if not _is_value(waiting):
                raise UserError(f"{name} names nothing: give it as {name} KEY VALUE")
            while _is_value(waiting):
                key = waiting.pop(0)
                before, equals, value = key.partition("=")
                if equals and before.isidentifier():  # a folder's name may hold one too
                    key, waiting[:0] = before, [value]
                table[key] = _scalar(_value_of(f"{name} {key}", waiting))
        else:
            left.append(given + equals + value)
    arguments[:] = left
    return table


def _is_value(waiting: Sequence[str]) -> bool:
    """Whether a word comes next, and no option; -1 is a number."""
    return bool(waiting) and not re.match(r"--?[A-Za-z]", waiting[0])


def _value_of(key: str, waiting: list[str]) -> str:
    if not _is_value(waiting):
        raise UserError(f"{key} has no value: give one after it")
    return waiting.pop(0)


def _scalar(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


def take_call(arguments: list[str]) -> Call:
    """Take out of the arguments what is asked of this call and is no setting of the run.

    Raises:
        UserError: `--stop-at` is no whole number.
    """
    given = take_option(arguments, "--stop-at")
    try:
        stop_at = None if given is None else _whole([given])
    except (ValueError, OverflowError):
        raise UserError(f"--stop-at {given} must be a whole number, as 20000 or 2e4") from None
    return Call(stop_at, fresh=flag(arguments, "--fresh"), allow_change=flag(arguments, "--allow-change"))


def consent(folder: Path, yes: bool) -> None:
    """Have the user confirm that the run in `folder` is to be deleted; there may be none.

    Args:
        folder: of the run.
        yes: whether `--yes` was given.

    Raises:
        UserError: no, or nobody is there to ask.
    """
    if yes or not (folder / "config.toml").exists():
        return
    if not sys.stdin.isatty():
        raise UserError(f"--fresh deletes the run in {folder}, and nobody is at a terminal to be asked: add --yes")
    print(
        f"{folder} holds a run; delete it with all its checkpoints and start over? [yes/no] ", end="", file=sys.stderr
    )
    if input().strip().lower() not in ("y", "yes"):
        raise UserError(f"{folder} is left as it is: run without --fresh to go on, or choose another folder with --run")


def exit_code(stopped: str | None) -> int:
    """0 for a run that ended or was told where to stop, 128 + its number for a signal."""
    return 128 + signal.Signals[stopped] if stopped is not None and stopped in signal.Signals.__members__ else 0


def json_flag(arguments: list[str]) -> list[str]:
    """`--json` without a value, as a person gives it."""
    return [part for a in arguments for part in (["--json", "True"] if a == "--json" else [a])]
