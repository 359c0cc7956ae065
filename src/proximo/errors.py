"""The one error that a user is meant to read."""

import difflib
from collections.abc import Iterable, Sequence
from numbers import Integral
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
