"""Options to dataclasses, for all verbs: numbers as people write them, and errors of one sentence."""

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import Any

import tyro
from tyro.constructors import PrimitiveConstructorSpec

from proximo.runs.errors import UserError


def _whole(arguments: list[str]) -> int:
    value = float(arguments[0])
    if not value.is_integer():
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


@_REGISTRY.primitive_rule
def _whole_numbers(info: tyro.constructors.PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    return _WHOLE if info.type is int else None


def parse(cls: Any, arguments: Sequence[str], verb: str, default: Any = tyro.MISSING_NONPROP) -> Any:
    """The options of a verb.

    Args:
        cls: dataclass whose fields are the options.
        arguments: as given.
        verb: for help and errors.
        default: what the options change.

    Raises:
        UserError: an option that does not exist or does not fit, in one sentence.
    """
    extra = {} if default is tyro.MISSING_NONPROP else {"default": default}
    said = io.StringIO()
    try:
        with _REGISTRY, redirect_stderr(said):
            return tyro.cli(
                cls, prog=f"proximo {verb}", args=list(arguments), config=(tyro.conf.FlagConversionOff,), **extra
            )
    except SystemExit as ending:
        if ending.code != 2:
            raise
        raise UserError(f"{_sentence(said.getvalue())}; `proximo {verb} --help` lists the options") from None


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


def json_flag(arguments: list[str]) -> list[str]:
    """`--json` without a value, as a person gives it."""
    return [part for a in arguments for part in (["--json", "True"] if a == "--json" else [a])]
