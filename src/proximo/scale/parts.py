"""Tensors that lie in parts on several ranks, to files and back on any number of them: torch.distributed.checkpoint,
with safetensors as its files, so that nothing is pickled.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from proximo.errors import UserError
from proximo.scale.mesh import Mesh


def write_parts(tensors: Mapping[str, Tensor], folder: Path, mesh: Mesh) -> None:
    """Each rank writes its parts into a file of its own; tensors that all ranks have whole are written once.

    Args:
        tensors: by names that are the same on all ranks.
        folder: an empty one that all ranks see.
        mesh: the ranks.

    Raises:
        UserError: a rank could not write.
        LostRankError: a rank is gone.
    """
    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    with _said("writing", folder, mesh):
        save(dict(tensors), storage_writer=writer, no_dist=mesh.alone)


def read_parts(tensors: Mapping[str, Tensor], folder: Path, mesh: Mesh) -> None:
    """Fill tensors, of which each rank may have a part, with what was written, by however many ranks.

    Args:
        tensors: written to, by the names that they were written under.
        folder: that `write_parts` has filled.
        mesh: the ranks.

    Raises:
        UserError: a rank could not read, or what was written has other names or shapes.
        LostRankError: a rank is gone.
    """
    reader = HuggingFaceStorageReader(str(folder))
    with _said("reading", folder, mesh):
        load(dict(tensors), storage_reader=reader, no_dist=mesh.alone)


@torch.no_grad()
def fill_parts(module: nn.Module, names: Mapping[str, str], folder: Path, mesh: Mesh, *, device: torch.device) -> None:
    """Give a sharded module whose weights lie nowhere yet (on `meta`) those of a folder, to each rank its own parts.

    Args:
        module: that nothing has run through.
        names: in the folder's files, by the module's own.
        folder: of safetensors that all ranks see.
        mesh: the ranks.
        device: of the parts.

    Raises:
        UserError: a rank could not read.
        LostRankError: a rank is gone.
    """
    made: dict[nn.Parameter, nn.Parameter] = {}  # tied ones once
    for owner in module.modules():
        for name, p in owner._parameters.items():
            if p is not None and p.is_meta:
                made.setdefault(p, nn.Parameter(torch.empty_like(p, device=device), p.requires_grad))
                owner._parameters[name] = made[p]
    read_parts({names[name]: p.detach() for name, p in module.named_parameters()}, folder, mesh)


@contextmanager
def _said(doing: str, folder: Path, mesh: Mesh) -> Iterator[None]:
    logging.getLogger("torch.distributed.checkpoint").setLevel(logging.ERROR)
    try:
        with mesh.waiting(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # by one process alone, as it is meant
            yield
    except CheckpointException as error:
        rank, failure = next(iter(sorted(error.failures.items())))
        first = str(failure[0]).strip().partition("\n")[0]
        raise UserError(f"{doing} the parts of a checkpoint in {folder} failed on rank {rank}: {first}") from error
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(f"{doing} the parts of a checkpoint in {folder} failed: {error}") from error
