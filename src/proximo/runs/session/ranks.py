"""A run of several ranks in one folder: rank 0 has the folder, and what is a rank's own is kept in the checkpoint."""

import json
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from proximo.errors import UserError
from proximo.runs.config.toml import flat, to_toml
from proximo.runs.console.progress import Progress
from proximo.runs.session.opening import Opening
from proximo.runs.storage.checkpoint import PARTS, begin_parts, parts_of
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter, Value
from proximo.scale.mesh import LostRankError, Mesh

_PLACE = "ranks"
"""Under which a checkpoint holds what belongs to ranks other than 0: tensors `ranks/R/NAME`, and state by name."""

Parts = tuple[dict[str, Tensor], dict[str, Any]]


class Followed:
    """The opening of a run whose folder rank 0 has opened, for the other ranks; see `Opening`."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        self.folder = RunFolder(told["run"])
        self.resumed: bool = told["resumed"]
        self.results: dict[str, Any] | None = told["results"]
        self.changes: list[Any] = told["changes"]
        self.config: str = told["config"]
        """All settings, as TOML."""

    @contextmanager
    def open(self) -> Iterator[RunFolder]:
        """The folder is rank 0's to open."""
        self.folder.stay()
        yield self.folder

    def settle(self, at: str) -> str | None:
        """Rank 0 writes down what has changed."""

    def note(self, text: str) -> None:
        """Rank 0 writes down what happened."""


class NoMetrics(MetricsWriter):
    """A writer for ranks other than 0: it finds nothing there and writes nothing."""

    def __init__(self) -> None:
        self.path, self._start = Path(os.devnull), time.monotonic()

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Rank 0 does."""

    def truncate_after(self, step: int) -> None:
        """Rank 0 does."""

    def close(self) -> None:
        """There is nothing open."""


class NoProgress(Progress):
    """Quiet, also where there is a warning: rank 0 has the same and says it."""

    def warning(self, text: str) -> None:
        """Rank 0 does."""


def open_together(mesh: Mesh, config: Any, opened: Callable[[], Opening]) -> Opening | Followed:
    """The opening of a run: rank 0's own, and the same in short for the others.

    Args:
        mesh: of the run.
        config: this rank's settings, as they are asked for.
        opened: makes it, on rank 0.

    Raises:
        UserError: rank 0 was refused; it asks in a callback; or a script has given ranks other settings than rank 0.
    """
    if mesh.apart_now:
        raise UserError(
            f"a training in a callback: {mesh.size} ranks train together, and callbacks are called by rank 0 alone; "
            "train it before or after this one, or in a process that is started without RANK in its environment"
        )
    _require_same(mesh, config)
    made: list[Opening] = []

    def of_the_first() -> dict[str, Any]:
        made.append(opening := opened())
        changes = [list(change) for change in opening.changes]
        return {
            "run": str(opening.folder.path),
            "resumed": opening.resumed,
            "results": opening.results,
            "config": to_toml(opening.config),
            "changes": json.loads(json.dumps(changes, default=str)),
        }

    told = mesh.of_the_first(of_the_first)
    return made[0] if made else Followed(told)


def _require_same(mesh: Mesh, config: Any) -> None:
    if mesh.alone:
        return
    here = json.loads(json.dumps(flat(tomllib.loads(to_toml(config))), default=str))
    there = mesh.gather_json(here)[0]
    with mesh.together():
        for name in sorted(here.keys() | there.keys()):
            # The folder is rank 0's own.
            if name != "run" and here.get(name) != there.get(name):
                raise UserError(
                    f"{name} = {here.get(name)!r} here, and {there.get(name)!r} on rank 0: give all ranks the same "
                    "settings"
                )


def others_went_on(size: int) -> str:
    """Half a sentence on a run that another number of ranks has trained before."""
    return f"{f'{size} ranks go' if size > 1 else 'one process goes'} on where another number of them was"


def with_others(mesh: Mesh, tensors: dict[str, Tensor], state: dict[str, Any], own: Callable[[str], bool]) -> Parts:
    """A checkpoint's content with what is the other ranks' own, on rank 0; elsewhere it is not to be used.

    Args:
        mesh: of the run.
        tensors: of this rank.
        state: of this rank.
        own: whether a name (of a tensor, or in the state) is of one rank alone; all else is the same on all.
    """
    if mesh.alone:
        return tensors, state
    mine = {name: x.detach().cpu().contiguous() for name, x in tensors.items() if own(name)}
    said = {"state": json.dumps({name: x for name, x in state.items() if own(name)})}
    gathered = mesh.gather_bytes(b"" if mesh.first else safetensors.torch.save(mine, metadata=said))
    states = []
    for rank, data in enumerate(gathered[1:], 1):
        theirs, their_state = _unpacked(data)
        tensors = tensors | {f"{_PLACE}/{rank}/{name}": x for name, x in theirs.items()}
        states.append(their_state)
    return tensors, {**state, _PLACE: states}


def of_this_rank(mesh: Mesh, read: Callable[[], Parts], own: Callable[[str], bool]) -> tuple[Parts, bool]:
    """A checkpoint's content as this rank has given it; and whether as many ranks have done so as there are now.

    Args:
        mesh: of the run.
        read: reads it, on rank 0.
        own: as in `with_others`.

    Raises:
        UserError: it can not be read.
    """
    found: list[Parts] = []
    if not mesh.alone:
        mesh.of_the_first(lambda: found.append(read()))  # what is appended is none of the others' business
        packed = b""
        if found:
            whole = {name: x.contiguous() for name, x in found[0][0].items()}
            packed = safetensors.torch.save(whole, metadata={"state": json.dumps(found[0][1])})
        packed = mesh.broadcast_bytes(packed)
    tensors, state = found[0] if found else (read() if mesh.alone else _unpacked(packed))
    others = state.get(_PLACE, [])
    shared = {name: x for name, x in tensors.items() if not name.startswith(f"{_PLACE}/")}
    state = {name: x for name, x in state.items() if name != _PLACE}
    if mesh.rank and len(others) >= mesh.rank:
        place = f"{_PLACE}/{mesh.rank}/"
        mine = {name.removeprefix(place): x for name, x in tensors.items() if name.startswith(place)}
        shared = {name: x for name, x in shared.items() if not own(name)} | mine
        state |= others[mesh.rank - 1]
    return (shared, state), 1 + len(others) == mesh.size


@contextmanager
def written_apart(mesh: Mesh, parts: Mapping[str, Tensor], directory: Path, name: str) -> Iterator[Path | None]:
    """Have all ranks write their parts of a checkpoint's tensors; within, rank 0 saves the rest, or they are removed.

    Args:
        mesh: of the run.
        parts: of this rank; empty where rank 0 has all.
        directory: of the checkpoints, which all ranks see.
        name: of the checkpoint.

    Yields:
        Where they are, for `save_checkpoint`; None where there are none.

    Raises:
        UserError: a rank could not write.
    """
    if not parts:
        yield None
        return
    from proximo.scale.parts import write_parts  # it takes a second to load

    place = Path(mesh.of_the_first(lambda: str(begin_parts(directory, name))))
    try:
        with mesh.together():
            if not place.is_dir():
                raise UserError(f"rank {mesh.rank} does not see {place}: with scale.shard = full all ranks write there")
        write_parts(parts, place, mesh)
        yield place
    except LostRankError:
        raise  # others may still write there: the next save removes it
    except BaseException:
        if mesh.first:
            shutil.rmtree(place, ignore_errors=True)
        raise


def read_apart(mesh: Mesh, parts: Mapping[str, Tensor], path: Path) -> None:
    """Have all ranks fill their parts from a checkpoint's.

    Args:
        mesh: of the run, of as many ranks as there are now.
        parts: of this rank, written to; empty where there is nothing to fill.
        path: of the checkpoint.

    Raises:
        UserError: a rank could not read.
    """
    if not parts:
        return
    from proximo.scale.parts import read_parts

    with mesh.together():
        if (place := parts_of(path)) is None:
            raise UserError(f"{path} has no folder {PARTS}: restore it from a copy")
    read_parts(parts, place, mesh)


def _unpacked(data: bytes) -> Parts:
    # The header's length, the header, the tensors: the state stands in the header.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    return safetensors.torch.load(data), json.loads(header["__metadata__"]["state"])
