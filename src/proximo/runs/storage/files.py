"""Writing files so that a crash or a full disk never leaves half of one."""

import errno
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from proximo.errors import UserError

_REMEDIES = {
    errno.ENOSPC: "free space and run the same command again",
    errno.EDQUOT: "free some of your quota and run the same command again",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f) and run the same command again",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder on a disk that is not read-only",
    errno.ENOENT: "the folder is gone; put it back or choose another",
    errno.ENOTDIR: "a file stands where a folder should be; move it away or choose another folder",
    errno.EISDIR: "a folder stands where a file should be; move it away or choose another folder",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EEXIST: "something of that name is already there; move it away or choose another folder",
}
_READING_REMEDIES = {
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path",
    errno.EISDIR: "give a file",
    errno.EACCES: "make it readable for you, or choose another file",
    errno.EPERM: "make it readable for you, or choose another file",
}
_OTHER_REMEDY = "check the disk and run the same command again"


def user_error(error: OSError, path: Path, doing: str = "writing", left: str = "") -> UserError:
    """Says in one sentence which file could not be written, why, and what to do.

    Args:
        error: What the operating system answered.
        path: The file or folder the user knows it by.
        doing: The verb, in the -ing form.
        left: What is there all the same, if anything.
    """
    remedy = _REMEDIES.get(error.errno or 0, _OTHER_REMEDY)
    return UserError(f"{error.strerror or error} while {doing} {path}: {remedy}{f'; {left}' if left else ''}")


def read_error(error: OSError, path: Path) -> UserError:
    """Says in one sentence which file could not be read, why, and what to do.

    Args:
        error: What the operating system answered.
        path: The file or folder the user knows it by.
    """
    remedy = _READING_REMEDIES.get(error.errno or 0, _OTHER_REMEDY)
    return UserError(f"{error.strerror or error} while reading {path}: {remedy}")


def room_of(folder: Path) -> str:
    """How much all files below a folder hold, as `3 MB` or `1.4 GB`; what goes away meanwhile is left out."""
    size = 0
    for file in folder.rglob("*"):
        with suppress(OSError):
            size += file.lstat().st_size
    return f"{size / 1e9:.1f} GB" if size >= 999.5e6 else f"{max(1, round(size / 1e6))} MB"


def write_atomically(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`, whole or not at all, also across a crash or a loss of power.

    Raises:
        UserError: The disk is full, read-only or gone; the temporary file is removed and the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_and_sync(temporary, data)
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise user_error(error, path) from error
        raise


def require_no_folder(file: Path, instead: str) -> None:
    """Refuse the name of a folder for a file that is to be written.

    Args:
        file: as it was given by --out.
        instead: how such a file may be called.

    Raises:
        UserError: it is a folder.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder: give --out the name of a file, as {file / instead}")


def make_parents(file: Path) -> None:
    """Make the folder that a file is to lie in.

    Raises:
        UserError: it can not be made.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise user_error(error, file.parent, "creating") from error


def parse_json(text: str | bytes) -> Any:
    """Parsed JSON.

    Raises:
        ValueError: It is not JSON, or nested too deep to be anything of ours.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def require_json(value: Any, place: str) -> None:
    """Refuse what JSON would change: it turns tuples into lists and numbers as keys into texts.

    Args:
        value: anything.
        place: what it is, for the error.

    Raises:
        TypeError: it would not come back as it was.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"{place} has the key {key!r}: JSON keeps only texts as keys")
            require_json(item, f"{place}[{key!r}]")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            require_json(item, f"{place}[{index}]")
    elif value is not None and not isinstance(value, str | int | float):
        raise TypeError(f"{place} is a {type(value).__name__}, which JSON does not keep as it is")


def write_and_sync(path: Path, data: bytes) -> None:
    """Writes a file and forces it to the disk.

    Raises:
        OSError: Whatever the operating system answers.
    """
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append(descriptor: int, data: bytes) -> None:
    """Appends all of `data` to a descriptor opened with O_APPEND, or nothing: a full disk cuts a write in the middle.

    Raises:
        OSError: Whatever the operating system answers.
    """
    before = os.fstat(descriptor).st_size
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except BaseException:
        with suppress(OSError):
            os.ftruncate(descriptor, before)
        raise


def sync_folder(folder: Path) -> None:
    """Forces the names in `folder` to the disk, without which a rename may be lost with the power.

    Raises:
        OSError: Whatever the operating system answers.
    """
    if os.name == "nt":
        return  # Windows cannot open a folder and orders renames itself
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
