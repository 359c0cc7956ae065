"""Small tensors exchanged between the ranks of one machine, through memory that they share.

A sum over TCP on one machine takes most of its time to wake threads: gloo has two beside the caller's. Here a rank
writes into its part of a file in memory, tells its neighbours by a byte on a socket, and looks for theirs. It looks
again and again for a while before it sleeps: to wake a sleeper costs more than the sum, and Linux likes to put it on
the core of the one who woke it.
"""

import mmap
import os
import select
import shutil
import socket
import tempfile
import time
import weakref
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOM = 2**22
"""Bytes of a tensor that is exchanged this way, at most."""
_KEY = "proximo/neighbours"
_AWAKE = 2e-3  # seconds of looking for an answer before a rank sleeps: more than ranks differ by in one minibatch


class Neighbours:
    """All ranks of one machine. Calls must be made by all ranks in the same order.

    Who waits for whom is the dissemination barrier of Hensgen, Finkel and Manber (1988): in round k each rank tells
    the one 2^k places on, and hears from the one 2^k places back. After ceil(log2 n) rounds all know that all have
    written.

    Args:
        rank: of this process.
        size: how many there are.
        store: of torch.distributed, where rank 0 says in which folder they meet.
        seconds: after which a rank that waits for another gives up.

    Raises:
        OSError: they can not meet.
    """

    def __init__(self, rank: int, size: int, store: Any, seconds: float) -> None:
        self._rank, self._size, self._parity, self._seconds = rank, size, 0, seconds
        if rank == 0:
            in_memory = Path("/dev/shm")
            folder = Path(tempfile.mkdtemp(prefix="proximo-", dir=in_memory if os.access(in_memory, os.W_OK) else None))
            with (folder / "memory").open("wb") as file:
                file.truncate(2 * size * ROOM)  # takes no memory before it is written
            store.set(_KEY, str(folder))
        folder = Path(store.get(_KEY).decode())
        try:
            with (folder / "memory").open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), 0)
            self._rounds = self._connected(folder, store, seconds)
        finally:  # all hold what they need: nothing is left behind, whatever becomes of them
            if store.add(f"{_KEY}/there", 1) == size:
                shutil.rmtree(folder, ignore_errors=True)
        _HERE.add(self)

    def _connected(self, folder: Path, store: Any, seconds: float) -> list[tuple[socket.socket, socket.socket]]:
        """For each round a socket to the rank that is told, and one from the rank that is heard."""
        distances = [2**k for k in range((self._size - 1).bit_length())]
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(seconds)
            door.bind(str(folder / str(self._rank)))
            door.listen(len(distances))
            store.set(f"{_KEY}/{self._rank}", "open")
            told = []
            for k, distance in enumerate(distances):
                other = (self._rank + distance) % self._size
                store.wait([f"{_KEY}/{other}"])
                told.append(_socket(seconds))
                told[-1].connect(str(folder / str(other)))
                told[-1].sendall(bytes([k]))
            heard = {}
            for _ in distances:
                caller, _ = door.accept()
                caller.settimeout(seconds)
                heard[caller.recv(1)[0]] = caller
                caller.setblocking(False)
        return [(there, heard[k]) for k, there in enumerate(told)]

    def exchange(self, x: Tensor) -> list[Tensor]:
        """All ranks' `x`, in their order; valid until the next but one call.

        Args:
            x: on the CPU, of one shape and type on all ranks, `ROOM` bytes at most.

        Raises:
            OSError: another rank is gone, or was not heard of in time.
        """
        # Who comes here again knows that all have left the last exchange but one, whose half is written to now.
        start, self._parity = self._parity * self._size * ROOM, 1 - self._parity
        places = [
            torch.frombuffer(self._memory, dtype=x.dtype, count=x.numel(), offset=start + rank * ROOM).view(x.shape)
            for rank in range(self._size)
        ]
        places[self._rank].copy_(x)
        try:
            for there, here in self._rounds:
                there.sendall(b".")
                if not self._heard(here):
                    raise ConnectionResetError("another rank has left")
        except OSError:
            self.close()
            raise
        return places

    def _heard(self, here: socket.socket) -> bytes:
        """The byte of another rank; nothing where it has left."""
        asleep = time.perf_counter() + _AWAKE
        while True:
            try:
                return here.recv(1)
            except BlockingIOError:
                if time.perf_counter() > asleep:
                    break
                os.sched_yield()  # where there are more ranks than cores, one of them needs this one
        if not select.select([here], [], [], self._seconds)[0]:
            raise TimeoutError(f"another rank was not heard of for {self._seconds:,.0f} s")
        return here.recv(1)

    def close(self) -> None:
        """Leave: who waits for this rank hears so at once."""
        for there, here in self._rounds:
            there.close()
            here.close()


_HERE: weakref.WeakSet[Neighbours] = weakref.WeakSet()


def _leave_all() -> None:
    # A forked worker (an environment's) has the sockets too: left open there, a killed rank would seem to live.
    for neighbours in _HERE:
        neighbours.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all)


def takes(x: Tensor) -> bool:
    """Whether `Neighbours.exchange` takes it."""
    return x.device.type == "cpu" and 0 < x.numel() * x.element_size() <= ROOM


def _socket(seconds: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(seconds)
    return made
