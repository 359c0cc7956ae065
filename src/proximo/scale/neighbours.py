"""Small tensors exchanged between the ranks of one machine, through memory that they share.

A sum over TCP on one machine takes most of its time to wake threads: gloo has two beside the caller's. Here a rank
writes into its part of a file in memory, tells its neighbours by a few bytes on a socket, and looks for theirs. It
looks again and again for a while before it sleeps: to wake a sleeper costs more than the sum, and Linux likes to put
it on the core of the one who woke it.
"""

import mmap
import os
import select
import shutil
import socket
import struct
import tempfile
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from zlib import crc32

import torch
from torch import Tensor

ROOM = 2**21
"""Bytes of a tensor that is exchanged this way, at most."""
KEY = "proximo/neighbours"
_PATIENCE = 30.0  # seconds for a neighbour to come to the door: all are there already, and there is another way
_AWAKE = 2e-3  # seconds of looking for an answer before a rank sleeps: more than ranks differ by in one minibatch
_SAID = struct.Struct("<II")  # which call it is, and what is exchanged in it


class OutOfStepError(RuntimeError):
    """Another rank exchanges something else than this one."""


class Neighbours:
    """All ranks of one machine. Calls must be made by all ranks in the same order.

    Who waits for whom is the dissemination barrier of Hensgen, Finkel and Manber (1988): in round k each rank tells
    the one 2^k places on, and hears from the one 2^k places back. After ceil(log2 n) rounds all know that all have
    written.

    Args:
        rank: of this process.
        size: how many there are.
        store: of torch.distributed, by which they find each other.
        seconds: after which a rank that waits for another gives up.
    """

    def __init__(self, rank: int, size: int, store: Any, seconds: float) -> None:
        self._rank, self._size, self._store, self._seconds = rank, size, store, seconds
        self._patience = min(seconds, _PATIENCE)
        self._calls = 0
        self._rounds: list[tuple[socket.socket, socket.socket]] = []
        _HERE.add(self)

    @classmethod
    def met(
        cls, rank: int, size: int, store: Any, seconds: float, all_have: Callable[[bool], bool]
    ) -> "Neighbours | None":
        """The ranks of this machine, met; None on all of them where one can not.

        Args:
            rank: see the class.
            size: see the class.
            store: see the class.
            seconds: see the class.
            all_have: whether it is true on all ranks, asked by another way.
        """
        neighbours = cls(rank, size, store, seconds)
        folder = ""
        try:
            if rank == 0:
                store.set(KEY, neighbours._made())
            folder = store.get(KEY).decode()
            if not folder:
                return None
            # First the memory, which fails at once where there is none; nobody waits at a door that is not opened.
            for step in (neighbours._map, neighbours._connect):
                if not all_have(_done(step, Path(folder))):
                    neighbours.close()
                    return None
            return neighbours
        finally:  # all hold what they need: nothing is left behind, whatever becomes of them
            if rank == 0 and folder:
                shutil.rmtree(folder, ignore_errors=True)

    def _made(self) -> str:
        """A new folder with the memory in it; "" where it can not be made."""
        in_memory, folder = Path("/dev/shm"), None
        try:
            folder = tempfile.mkdtemp(prefix="proximo-", dir=in_memory if os.access(in_memory, os.W_OK) else None)
            # Written, and not only promised: where too little is left this fails here, and not within a sum.
            (Path(folder) / "memory").write_bytes(bytes(2 * self._size * ROOM))
            return folder
        except OSError:
            if folder:
                shutil.rmtree(folder, ignore_errors=True)
            return ""

    def _map(self, folder: Path) -> None:
        with (folder / "memory").open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)

    def _connect(self, folder: Path) -> None:
        """For each round a socket to the rank that is told, and one from the rank that is heard."""
        distances = [2**k for k in range((self._size - 1).bit_length())]
        told, heard = [], {}
        with socket.socket(socket.AF_UNIX) as door:
            door.settimeout(self._patience)
            door.bind(str(folder / str(self._rank)))
            door.listen(len(distances))
            self._store.set(f"{KEY}/{self._rank}", "open")
            for k, distance in enumerate(distances):
                other = (self._rank + distance) % self._size
                self._store.wait([f"{KEY}/{other}"], timedelta(seconds=self._patience))
                told.append(socket.socket(socket.AF_UNIX))
                told[-1].settimeout(self._seconds)
                told[-1].connect(str(folder / str(other)))
                told[-1].sendall(bytes([k]))
            for _ in distances:
                caller, _ = door.accept()
                caller.settimeout(self._patience)
                heard[caller.recv(1)[0]] = caller
                caller.setblocking(False)
        self._rounds = [(there, heard[k]) for k, there in enumerate(told)]

    def exchange(self, x: Tensor, what: str) -> list[Tensor]:
        """All ranks' `x`, in their order; valid until the next but one call.

        Args:
            x: on the CPU, of one shape and type on all ranks, `ROOM` bytes at most.
            what: is done with it, the same on all ranks.

        Raises:
            OSError: another rank is gone, or was not heard of in time.
            OutOfStepError: another rank exchanges something else.
        """
        self._calls = (self._calls + 1) % 2**32
        said = _SAID.pack(self._calls, crc32(f"{what} {x.dtype} {tuple(x.shape)}".encode()))
        # Who comes here again knows that all have left the last exchange but one, whose half is written to now.
        start = self._calls % 2 * self._size * ROOM
        places = [
            torch.frombuffer(self._memory, dtype=x.dtype, count=x.numel(), offset=start + rank * ROOM).view(x.shape)
            for rank in range(self._size)
        ]
        places[self._rank].copy_(x)
        try:
            for there, here in self._rounds:
                there.sendall(said)
                if (answer := self._heard(here)) != said:
                    raise _unlike(answer)
        except (OSError, OutOfStepError):
            self.close()
            raise
        return places

    def _heard(self, here: socket.socket) -> bytes:
        """What another rank says; less than that where it has left."""
        asleep, answer = time.perf_counter() + _AWAKE, b""
        while len(answer) < _SAID.size:
            try:
                more = here.recv(_SAID.size - len(answer))
                answer += more
                if not more:
                    break
            except BlockingIOError:
                if time.perf_counter() < asleep:
                    os.sched_yield()  # where there are more ranks than cores, one of them needs this one
                elif not _readable(here, self._seconds):
                    raise TimeoutError(f"another rank was not heard of for {self._seconds:,.0f} s") from None
        return answer

    def missing(self) -> bool:
        """Whether one of those whom this rank hears has left."""
        for _, here in self._rounds:
            try:
                if not here.recv(1, socket.MSG_PEEK):
                    return True
            except BlockingIOError:
                continue
            except OSError:  # it has left what it was told unread
                return True
        return False

    def close(self) -> None:
        """Leave: who waits for this rank hears so at once."""
        for there, here in self._rounds:
            there.close()
            here.close()


def _readable(here: socket.socket, seconds: float) -> bool:
    """Whether there is something to read, or nobody left to write, within so many seconds."""
    poll = select.poll()  # select.select takes no descriptor above 1,023, and many environments open many
    poll.register(here, select.POLLIN)
    return bool(poll.poll(1000 * seconds))


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


def _done(step: Callable[[Path], None], folder: Path) -> bool:
    try:
        step(folder)
        return True
    except (OSError, RuntimeError):  # the store's errors are the latter
        return False


def _unlike(answer: bytes) -> Exception:
    if len(answer) < _SAID.size:
        return ConnectionResetError("another rank has left")
    return OutOfStepError(
        "the ranks are out of step: another one exchanges something else than this one. A loop over a trainer must go "
        "on, or be left, on all ranks alike; a callback, a reward or an algorithm of your own that asks for sums over "
        "ranks must do so on all of them, in one order; else it is a fault of Proximo: please report it"
    )
