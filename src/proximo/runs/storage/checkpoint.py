"""Checkpoints: tensors as safetensors, everything else as JSON, and a manifest that proves both are whole.

A checkpoint is a folder, made under a hidden name and renamed. Replacing one moves the old copy aside first, so a crash
between the two renames leaves `.<name>.old`; a reader takes that one, and the next save puts it back.
No pickle is ever read, so a stranger's checkpoint cannot run code.

Of weights that lie on several ranks each rank has written its part before, into a folder under another hidden name; it
is moved in before the rename, so a checkpoint has all parts or is none.
"""

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from proximo.errors import UserError
from proximo.runs.storage.files import parse_json, read_error, require_json, sync_folder, user_error, write_and_sync

FORMAT_VERSION = 1

TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
PARTS = "parts"
"""Folder of a checkpoint with what ranks have written by themselves."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_NUMBERED = re.compile(r"step-(\d+)")


class NewerFormatError(UserError):
    """A checkpoint that only a newer Proximo can read. It is whole, so nothing older may be taken in its place."""


def step_name(step: int) -> str:
    """The name of the checkpoint at `step`; names sort as steps do."""
    return f"step-{step:012d}"


def step_of(name: str) -> int | None:
    """The step in a name that `step_name` made, None for any other ("best", "final")."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def save_checkpoint(
    directory: Path,
    name: str,
    tensors: Mapping[str, torch.Tensor | np.ndarray],
    state: Mapping[str, Any],
    *,
    keep: int | None = None,
    parts: Path | None = None,
) -> Path:
    """Writes the checkpoint `directory/name`, replacing one of that name; a whole copy is there at every moment.

    Args:
        directory: The run's `checkpoints` folder; one process writes there.
        name: `step_name(step)`, or a word such as "best".
        tensors: Any dtype, shape and device; they may share memory and are stored apart.
        state: What JSON gives back as it was: dicts with text keys, lists, texts, numbers (also NaN and infinities,
            in Python's dialect), booleans, None.
        keep: How many numbered checkpoints to leave, this one included; None keeps all. Only those up to this step
            are counted and removed: a later one stems from before a resume and is for its user to judge.
        parts: What `begin_parts` gave, filled; it becomes the checkpoint's.

    Returns:
        The checkpoint's folder.

    Raises:
        UserError: It cannot be written; what was there before is untouched.
        TypeError: `state` holds what JSON would change.
        ValueError: A name that is no plain file name, or `keep` below 1.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"checkpoint name {name!r} may hold only letters, digits, '_', '-' and '.'")
    if keep is not None and keep < 1:
        raise ValueError(f"keep must be at least 1, not {keep}")
    require_json(state, "state")
    files = {
        TENSORS: safetensors.torch.save({key: _storable(tensor) for key, tensor in tensors.items()}),
        STATE: json.dumps(state, indent=1).encode(),
    }
    target = directory / name
    try:
        directory.mkdir(exist_ok=True)
        _put_back(directory)
        _install(files | {MANIFEST: _manifest(files, parts)}, target, parts)
        _prune(directory, name, keep)
    except OSError as error:
        left = "the last checkpoint is whole" if _numbered(directory) else ""
        raise user_error(error, target, "writing checkpoint", left) from error
    return target


def begin_parts(directory: Path, name: str) -> Path:
    """An empty folder beside the checkpoints for the parts of the next one, `name`; what a killed save left goes.

    Raises:
        UserError: It cannot be made.
    """
    place = directory / f".{name}.{PARTS}"
    try:
        directory.mkdir(exist_ok=True)
        for left in directory.glob(f".*.{PARTS}"):
            shutil.rmtree(left)
        place.mkdir()
    except OSError as error:
        raise user_error(error, place, "writing checkpoint") from error
    return place


def parts_of(path: Path) -> Path | None:
    """The folder of a checkpoint's parts; None of one that has none."""
    place = _whole_copy(path) / PARTS
    return place if place.is_dir() else None


def load_checkpoint(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads and verifies a checkpoint.

    Args:
        path: What `save_checkpoint` returned.

    Returns:
        The tensors, on the CPU, and the state.

    Raises:
        NewerFormatError: A newer Proximo wrote it.
        UserError: It is absent, cut short, altered, or not made of safetensors and JSON.
    """
    folder = _whole_copy(path)
    files = _read_verified(folder)
    try:
        return safetensors.torch.load(files[TENSORS]), parse_json(files[STATE])
    except (safetensors.SafetensorError, ValueError) as error:
        raise _broken(folder, f"cannot be read ({error})") from error


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}


def latest_checkpoint(
    directory: Path, *, warn: Callable[[str], None] = warnings.warn, set_aside: bool = False
) -> Path | None:
    """The numbered checkpoint with the highest step that is whole, or None where there is none at all.

    Args:
        directory: The run's `checkpoints` folder; it need not exist.
        warn: Told one sentence about every broken checkpoint that is passed over.
        set_aside: Rename these to `.<name>.broken`, before a run writes there: they would count towards `keep`.

    Raises:
        NewerFormatError: The newest that is not broken needs a newer Proximo.
        UserError: There are numbered checkpoints and none is whole: starting over in silence would lose the run.
    """
    names, broken = _numbered(directory), dict[Path, UserError]()
    whole: Path | None = None
    while names and whole is None:
        path = directory / names.pop()
        try:
            _read_verified(_whole_copy(path))
        except NewerFormatError:
            raise
        except UserError as error:
            broken[path] = error
        else:
            whole = path
    for path, fault in broken.items():
        # Only beside a whole one: a folder without numbered checkpoints is a run that starts.
        moved = f"; it is now {_set_aside(path).name}" if set_aside and whole else ""
        warn(f"passing over a broken checkpoint: {fault}{moved}")
    if broken and whole is None:
        raise UserError(f"no checkpoint in {directory} is whole: restore one from a copy or start a new run folder")
    return whole


# Writing --------------------------------------------------------------------------------------------------------------


def _install(files: Mapping[str, bytes], target: Path, parts: Path | None = None) -> None:
    temporary, old = target.with_name(f".{target.name}.tmp"), _aside(target)
    try:
        temporary.mkdir()
        for name, data in files.items():
            write_and_sync(temporary / name, data)
        if parts is not None:
            sync_folder(parts)
            parts.rename(temporary / PARTS)
        sync_folder(temporary)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        sync_folder(target.parent)
    except BaseException:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(old, ignore_errors=True)  # what stays is removed by the next save


def _put_back(directory: Path) -> None:
    """Clears away what a killed save left: a half-written folder, or an old copy that the new one never replaced."""
    for left in directory.glob(".*.tmp"):
        shutil.rmtree(left)
    for left in directory.glob(".*.old"):
        target = directory / left.name.removeprefix(".").removesuffix(".old")
        if target.exists():
            shutil.rmtree(left)
        else:
            left.rename(target)


def _prune(directory: Path, name: str, keep: int | None) -> None:
    step = step_of(name)
    if keep is None or step is None:
        return
    until_now = [other for other in _numbered(directory) if (step_of(other) or 0) <= step]
    for other in until_now[:-keep]:
        # Renamed first: a removal cut short must not look like a damaged checkpoint.
        doomed = directory / f".{other}.tmp"
        (directory / other).rename(doomed)
        shutil.rmtree(doomed)


def _storable(tensor: torch.Tensor | np.ndarray) -> torch.Tensor:
    if isinstance(tensor, np.ndarray):
        return torch.from_numpy(np.array(tensor, order="C"))
    return tensor.detach().to("cpu", copy=True).contiguous()  # a copy, as safetensors refuses shared memory


def _manifest(files: Mapping[str, bytes], parts: Path | None) -> bytes:
    sums = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    for file in sorted(parts.iterdir()) if parts is not None else ():
        sums[f"{PARTS}/{file.name}"] = {"bytes": file.stat().st_size, "sha256": _digest(file)}
    return json.dumps({"format_version": FORMAT_VERSION, "files": sums}, indent=1).encode()


def _digest(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# Reading --------------------------------------------------------------------------------------------------------------


def _numbered(directory: Path) -> list[str]:
    """Names of numbered checkpoints, oldest first, with those of which only the copy put aside is left."""
    names: Iterable[str] = os.listdir(directory) if directory.is_dir() else ()
    plain = {name.removeprefix(".").removesuffix(".old") if name.endswith(".old") else name for name in names}
    return sorted((name for name in plain if step_of(name) is not None), key=lambda name: step_of(name) or 0)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _set_aside(path: Path) -> Path:
    target = path.with_name(f".{path.name}.broken")
    try:
        shutil.rmtree(target, ignore_errors=True)  # an earlier one of this step
        return (path if path.exists() else _aside(path)).rename(target)
    except OSError as error:
        raise user_error(error, path, "setting aside") from error


def _whole_copy(path: Path) -> Path:
    """The folder that holds `path`'s content: itself, or the copy put aside by a save that was killed."""
    if path.is_dir():
        return path
    if _aside(path).is_dir():
        return _aside(path)
    if path.exists():
        raise UserError(f"{path} is a file, and a checkpoint is a folder: give the folder that holds {TENSORS}")
    there = ", ".join(sorted(item.name for item in path.parent.glob("[!.]*"))) if path.parent.is_dir() else ""
    raise UserError(f"no checkpoint {path}: " + (f"choose one of {there}" if there else "check the path"))


def _read_verified(folder: Path) -> dict[str, bytes]:
    sums = _read_manifest(folder)
    files = {name: _read(folder, name) for name in (TENSORS, STATE)}
    if _looks_like_pickle(files[TENSORS]):
        raise _broken(folder / TENSORS, "is a pickle, which can run code when it is loaded, and is not read")
    for name, data in files.items():
        wanted = sums.get(name)
        if not isinstance(wanted, dict):
            raise _broken(folder / MANIFEST, f"says nothing of {name}")
        if len(data) != wanted.get("bytes"):
            raise _broken(folder / name, f"has {len(data)} bytes and {MANIFEST} says {wanted.get('bytes')}")
        if hashlib.sha256(data).hexdigest() != wanted.get("sha256"):
            raise _broken(folder / name, f"was altered since it was written (its SHA-256 is not that of {MANIFEST})")
    for name in sums.keys() - files.keys():
        _check_part(folder / name, sums[name])
    return files


def _check_part(file: Path, wanted: Any) -> None:
    try:
        size, digest = file.stat().st_size, _digest(file)
    except FileNotFoundError as error:
        raise _broken(file, "is missing") from error
    except OSError as error:
        raise read_error(error, file) from error
    if not isinstance(wanted, dict) or (size, digest) != (wanted.get("bytes"), wanted.get("sha256")):
        raise _broken(file, f"is not what was written (its size or its SHA-256 is not that of {MANIFEST})")


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        manifest = parse_json(_read(folder, MANIFEST))
        version, sums = manifest["format_version"], manifest["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise _broken(path, "is damaged") from error
    if not isinstance(version, int) or version < 1 or not isinstance(sums, dict):
        raise _broken(path, "is damaged")
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            f"{path} is of format {version} and this Proximo reads up to {FORMAT_VERSION}: "
            "install a newer one (git pull, or a newer wheel)"
        )
    return sums


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except FileNotFoundError as error:
        raise _broken(folder / name, "is missing") from error
    except OSError as error:
        raise read_error(error, folder / name) from error


def _looks_like_pickle(data: bytes) -> bool:
    # A safetensors file has its JSON header at byte 8, and its length before that may begin like a pickle.
    pickled = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and data[8:9] != b"{"
    return pickled or data.startswith(b"PK\x03\x04")  # torch.save writes a zip


def _broken(path: Path, fault: str) -> UserError:
    return UserError(f"{path} {fault}: use another checkpoint or restore this one from a copy")
