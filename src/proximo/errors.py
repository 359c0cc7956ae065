"""The one error that a user is meant to read."""

import difflib
import os
import traceback
from collections.abc import Iterable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar

MALFORMED = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What building something from a stranger's description runs into where that is not what it should be."""

FOREIGN = (Exception, SystemExit)
"""What is caught of code that is not ours and reported with its name: anything that it raises.

Some simulators and scripts end the whole process with SystemExit. Ctrl-C and our own signals are none of theirs.
"""


class UserError(Exception):
    """Something the user can mend. The message is one sentence: what is wrong, where, and what to do.

    The command line prints the message alone and exits with code 2; from Python it is an ordinary exception.
    """

    exit_code: ClassVar[int] = 2


class UnknownKeyError(UserError):
    """A table of settings has a key that there is none of.

    Args:
        fault: what is wrong, and where.
        hint: what to do about it.
        key: without the table's name.
    """

    def __init__(self, fault: str, hint: str, key: str) -> None:
        super().__init__(f"{fault}: {hint}")
        self.fault, self.key = fault, key


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The names most like `name`, as `a, b or c`, for an error message; empty when nothing is alike."""
    lowered = {candidate.lower(): candidate for candidate in names}
    matches = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, count, 0.6)]
    return " or ".join(filter(None, [", ".join(matches[:-1]), *matches[-1:]]))


def require_word(name: str, value: Any, words: Sequence[str]) -> None:
    """Refuse what is none of the words that an argument may be.

    Args:
        name: of the argument.
        value: given for it.
        words: that there are.

    Raises:
        UserError: it is another, or no word at all.
    """
    if not (isinstance(value, str) and value in words):
        alike = nearest(value, words, 1) if isinstance(value, str) else ""
        raise UserError(f"{name} = {value!r} must be " + (f"{alike!r}" if alike else f"one of {', '.join(words)}"))


def require_whole(name: str, value: Any, least: int, why: str = "") -> None:
    """Refuse what is no whole number, or too small a one.

    Args:
        name: of the argument.
        value: given for it; a number of NumPy is one too.
        least: that it may be.
        why: it may not be less.

    Raises:
        UserError: it is another number, or none.
    """
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise UserError(f"{name} = {value!r} must be a whole number, at least {least}" + (f": {why}" if why else ""))


def own_frame(error: BaseException) -> traceback.FrameSummary | None:
    """Where an error arose in the user's code: the last frame that is neither ours nor a library's."""
    ours, standard = str(Path(__file__).parent), str(Path(os.__file__).parent)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((ours, "<frozen"))]
    own = [f for f in frames if not f.filename.startswith(standard) and "site-packages" not in f.filename] or frames
    return own[-1] if own else None


def with_place(error: BaseException) -> str:
    """Kind, message and place of an error in code that is not ours, as `KeyError: 'k' at mine.py:12`."""
    frame = own_frame(error)
    return f"{type(error).__name__}: {error}" + ("" if frame is None else f" at {frame.filename}:{frame.lineno}")
