"""The one error that a user is meant to read."""

import difflib
from collections.abc import Iterable

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


def nearest(name: str, names: Iterable[str], count: int = 3) -> str:
    """The names most like `name`, as `a, b or c`, for an error message; empty when nothing is alike."""
    lowered = {candidate.lower(): candidate for candidate in names}
    matches = [lowered[match] for match in difflib.get_close_matches(name.lower(), lowered, count, 0.6)]
    return " or ".join(filter(None, [", ".join(matches[:-1]), *matches[-1:]]))
