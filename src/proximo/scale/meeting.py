"""How ranks meet, and how they leave one another."""

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from proximo.errors import UserError
from proximo.scale.mesh import ALONE, Mesh, rank_timeout

_LAST = "proximo/last"

_current: Mesh | None = None


def current_mesh() -> Mesh:
    """The ranks that torchrun, Ray Train or another launcher has started this process among; they meet here first.

    Raises:
        UserError: the others can not be reached.
    """
    global _current
    if _current is None:
        _current = _meet()
    return _current


def mesh_so_far() -> Mesh:
    """The ranks that this process has met, or `ALONE`: nobody is waited for."""
    return _current or ALONE


def _meet() -> Mesh:
    if not dist.is_available() or int(os.environ.get("WORLD_SIZE") or 1) == 1 or "RANK" not in os.environ:
        return Mesh()
    local = int(os.environ.get("LOCAL_RANK") or 0)
    if torch.cuda.is_available():
        torch.cuda.set_device(local % torch.cuda.device_count())
    if not dist.is_initialized():  # Ray Train has done it
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        # On one machine torchrun's agent keeps its store over restarts, with the addresses of those that died.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        attempt = attempt if os.environ.get("GROUP_WORLD_SIZE", "1") == "1" else "0"
        limit = timedelta(seconds=rank_timeout())
        try:
            store, rank, size = next(rendezvous("env://", timeout=limit))
            store = PrefixStore(f"proximo/{attempt}", store)
            dist.init_process_group(backend, timeout=limit, store=store, rank=rank, world_size=size)
        except (RuntimeError, ValueError) as error:
            raise _unmet(error) from error
    try:
        return Mesh(dist.get_rank(), dist.get_world_size(), local, int(os.environ.get("LOCAL_WORLD_SIZE") or 1))
    except RuntimeError as error:
        raise _unmet(error) from error


def _unmet(error: Exception) -> UserError:
    return UserError(f"the ranks could not meet: {str(error).splitlines()[0]}")


def said_by_the_first(sentence: str) -> bool:
    """Whether rank 0 ends with this very sentence, as all ranks do that have failed together; false after 5 s.

    Args:
        sentence: that this rank ends with; rank 0 lets the others know.
    """
    if _current is None or _current.size == 1:
        return True  # they have not met: what fails before follows from the command, on all ranks alike
    try:
        if _current.first:
            _current._store.set(_LAST, sentence)
            return True
        _current._store.wait([_LAST], timedelta(seconds=5))
        return _current._store.get(_LAST).decode() == sentence
    except RuntimeError:
        return False


def leave() -> None:
    """Leave the others, at the end of a process that met them."""
    global _current
    if _current is not None and _current.size > 1 and dist.is_initialized():
        dist.destroy_process_group()
    _current = None
