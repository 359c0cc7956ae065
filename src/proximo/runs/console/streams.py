"""Standard output and error of a command whose reader may stop reading: `| head`, a pager that is left, a full disk."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

_GONE = (errno.EPIPE, errno.EIO)
"""What a pipe without a reader answers, and a terminal that was closed."""


class Stream:
    """A stream that fails once at most. What is written after that goes nowhere, at the interpreter's end too.

    Args:
        stream: that is written to.
        goes_on: whether it says nothing when it fails, for a command that has more to do than to print.
    """

    def __init__(self, stream: Any, *, goes_on: bool) -> None:
        self._stream, self._goes_on = stream, goes_on
        self.lost: OSError | None = None
        """Why nothing can be written any more; None while it can."""

    @property
    def left(self) -> bool:
        """Whether the reader has stopped reading."""
        return self.lost is not None and self.lost.errno in _GONE

    def write(self, text: str) -> int:
        """See `io.TextIOBase.write`.

        Raises:
            OSError: it can not be written, for the first time, and the command does not go on.
        """
        if self.lost is None:
            with self._failing_once():
                self._stream.write(text)  # some streams, as those of Ray's workers, answer nothing
        return len(text)

    def writelines(self, lines: Any) -> None:
        """See `io.IOBase.writelines`; errors as `write`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """See `io.IOBase.flush`; errors as `write`."""
        if self.lost is None:
            with self._failing_once():
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    @contextmanager
    def _failing_once(self) -> Iterator[None]:
        try:
            yield
        except BlockingIOError:  # a reader that is slow, of a stream that does not wait
            if not self._goes_on:
                raise
        except OSError as error:
            self.lost = error
            with suppress(OSError, ValueError, AttributeError):  # one that is no file has nothing to turn away
                _turn_to_nothing(self._stream.fileno())  # with what its buffer holds, which would fail at the exit
            if not self._goes_on:
                raise


def say(text: str) -> None:
    """Print a line to standard error; one that nobody reads any more is no reason to fail, from Python either."""
    with suppress(OSError, ValueError):  # its reader is gone, or it is closed
        print(text, file=sys.stderr, flush=True)


def outlive_readers() -> None:
    """Let nothing that this process prints from now on be a reason to fail; for one that another one has started."""
    sys.stdout, sys.stderr = (Stream(_or_nothing(each), goes_on=True) for each in (sys.stdout, sys.stderr))


@contextmanager
def guarded_streams(*, goes_on: bool) -> Iterator[Stream]:
    """Standard streams that a reader may leave; gives standard output.

    Messages on standard error are never a reason to fail. A stream that was closed before the start (`>&-`) is opened
    on nothing, or the next file that is opened would get its number, and what a library prints.

    Args:
        goes_on: whether nobody is told that standard output can not be written.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    out = Stream(_or_nothing(sys.stdout), goes_on=goes_on)
    sys.stdout, sys.stderr = out, Stream(_or_nothing(sys.stderr), goes_on=True)
    try:
        yield out
    finally:
        for stream in (out, sys.stderr):
            with suppress(OSError, ValueError):  # said before, or it was closed
                stream.flush()
        sys.stdout, sys.stderr = before


def _or_nothing(stream: Any) -> Any:
    return open(os.devnull, "w") if stream is None else stream


def _turn_to_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, descriptor)
    os.close(nothing)


def _open_closed() -> None:
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
