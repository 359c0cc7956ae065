"""One process per run folder.

The lock belongs to the operating system, so it goes with the process however that ends; the file's text only tells
the second process who the first is.
"""

import errno
import os
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Self

from proximo.errors import UserError
from proximo.runs.storage.files import user_error

_BUSY = {errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK}

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # Windows locks bytes against reading: lock one beyond the text

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


class Lock:
    """An exclusive lock on a file, held from construction to `release`.

    Args:
        path: The file to lock; created when absent, and left there afterwards (removing it would let two in).

    Raises:
        UserError: Another process holds it, or the file cannot be written or locked.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise user_error(error, path, "opening") from error
        try:
            _try_lock(descriptor)
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        except OSError as error:
            busy = error.errno in _BUSY
            owner = os.read(descriptor, 32).decode("ascii", "replace").strip() if busy else ""
            os.close(descriptor)
            if busy:
                raise _refused(path, owner) from error
            with suppress(OSError):
                path.unlink()  # a disk too full for these few bytes
            raise user_error(error, path, "locking") from error
        self._descriptor = descriptor
        _HELD.add(self)

    def release(self) -> None:
        """Lets the next process in; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            _unlock(descriptor)
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _forget_in_child(self) -> None:
        # A forked worker (an environment's) shares the lock: left open there, it would outlive a killed parent.
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _refused(path: Path, owner: str) -> UserError:
    who = f"process {owner}" if owner.isdigit() else "another process"
    if owner == str(os.getpid()):
        who = f"this very process ({owner})"
    return UserError(f"{path.parent} is in use by {who}: wait for it, stop it, or choose another folder")


_HELD: "weakref.WeakSet[Lock]" = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_HELD):
        lock._forget_in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
