"""What the ranks of tests/scale do. Functions of modules, since other processes look them up by name."""

import os
import random
import signal
import socket
import threading
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from proximo.core.invariants import InvariantError
from proximo.errors import UserError
from proximo.scale.mesh import LostRankError
from proximo.scale.neighbours import KEY, ROOM


def collectives(mesh):
    """One of each, as plain values."""
    r = mesh.rank
    told = {
        "who": (r, mesh.size, mesh.first, mesh.alone, str(mesh.device)),
        "sum": mesh.sum_across_ranks(torch.tensor([1.0, 10.0 * r], dtype=torch.float64)).tolist(),
        "gather": mesh.gather(torch.tensor([[r, 2 * r]])).tolist(),
        "broadcast": mesh.broadcast(torch.full((2,), float(r)), source=mesh.size - 1).tolist(),
        "bytes": mesh.broadcast_bytes(b"" if r else b"from the first"),
        "none": mesh.broadcast_bytes(b""),
        "all bytes": mesh.gather_bytes(b"x" * r),
        "any": (mesh.any(r == 1), mesh.any(False)),
        "of the first": mesh.of_the_first(lambda: {"rank": r}),
        "share": [(s.start, s.stop) for s in [mesh.share(n) for n in (8, 5, 1)]],
    }
    before = mesh.traffic
    mesh.sum_across_ranks(torch.zeros(1000))
    told["traffic"] = mesh.traffic - before
    return told


def hurried(mesh, count):
    """Sums and gathers by ranks that keep each other waiting; what was wrong, and what they met in."""
    draw = random.Random(mesh.rank)
    wrong = []
    for i in range(count):
        if draw.random() < 0.2:
            time.sleep(draw.random() / 500)
        length = 1 + (7 * i) % 100
        total = mesh.sum_across_ranks(torch.full((length,), float(i * (mesh.rank + 1))))
        rows = mesh.gather(torch.full((length, 2), i + mesh.rank))
        expected = torch.arange(mesh.size)[:, None, None] + i
        if total.tolist() != [i * mesh.size * (mesh.size + 1) / 2] * length or not torch.equal(
            rows, expected.expand(-1, length, 2)
        ):
            wrong.append(i)
    many = ROOM // 4 + 1  # more than there is room for
    large = mesh.sum_across_ranks(torch.ones(many)).sum().item() == many * mesh.size
    left = Path(mesh._store.get(KEY).decode()).exists()
    return wrong, large, left, mesh._neighbours is not None


def out_of_step(mesh):
    """Rank 0 sums, the others gather; what they are told."""
    mesh.barrier()
    try:
        (mesh.gather if mesh.rank else mesh.sum_across_ranks)(torch.ones(3))
    except LostRankError as error:
        return str(error)


def failures(mesh):
    """What each rank is told of what went wrong on one of them."""
    seen = []
    for kind, error in (
        ("user", UserError("mend it")),
        ("nan", InvariantError("not-finite: x")),
        ("bug", KeyError("k")),
        ("all", UserError("all")),
    ):
        try:
            with mesh.together():
                if mesh.rank == 1 or kind == "all":
                    raise error
        except Exception as caught:
            seen.append((kind, type(caught).__name__, str(caught)))
    with mesh.together():
        pass
    try:
        mesh.of_the_first(_refuse)
    except UserError as caught:
        seen.append(("first", type(caught).__name__, str(caught)))
    return seen, mesh.sum_across_ranks(torch.ones(1)).item()


def _refuse():
    raise UserError("rank 0 says no")


def killed(mesh):
    """Rank 1 is killed while all others wait for it; after how many seconds they know."""
    mesh.barrier()
    if mesh.rank == 1:
        if os.fork() == 0:  # as the process of an environment, which may outlive it
            time.sleep(12)
            os._exit(0)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    try:
        mesh.barrier()
    except LostRankError as error:
        return time.monotonic() - started, str(error)


def killed_alone(mesh):
    """Rank 0 is killed in the midst of what it does alone; after how many seconds the others know."""
    mesh.barrier()
    started = time.monotonic()
    try:
        mesh.of_the_first(lambda: os.kill(os.getpid(), signal.SIGKILL))
    except LostRankError as error:
        return time.monotonic() - started, str(error)


def stuck(mesh):
    """Rank 1 stops answering without ending; the environment variable says how long the others wait."""
    mesh.barrier()
    if mesh.rank == 1:
        mesh._store.wait(["given up"], timedelta(seconds=50))
        return None
    started = time.monotonic()
    try:
        mesh.barrier()
    except LostRankError:
        seconds = time.monotonic() - started
        mesh._store.set("given up", "")
        return seconds


def cut_off(mesh):
    """Rank 1 waits for what rank 0 does alone, and the store's machine is cut off; what each is told."""
    mesh.barrier()
    if mesh.rank == 1:
        store, line = mesh._store, Line(int(os.environ["MASTER_PORT"]))
        far = dist.TCPStore("127.0.0.1", line.port, is_master=False, wait_for_workers=False)
        mesh._store = far
        line.cut = True
        store.set("cut", "")
    try:
        mesh.of_the_first(lambda: mesh._store.wait(["cut"], timedelta(seconds=50)))
    except LostRankError as error:
        return str(error)


class Line:
    """A connection to a port of this machine that can be cut: bytes are lost, and nobody is told."""

    def __init__(self, port):
        self.cut = False
        self._door = socket.create_server(("127.0.0.1", 0))
        self.port = self._door.getsockname()[1]
        threading.Thread(target=self._accept, args=(port,), daemon=True).start()

    def _accept(self, port):
        while True:
            here, there = self._door.accept()[0], socket.create_connection(("127.0.0.1", port))
            for ends in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source, target):
        while data := source.recv(65536):
            if not self.cut:
                target.sendall(data)


def fails_alone(mesh):
    """Rank 1 fails in code that all compute together, and leaves; what each is told."""
    mesh.barrier()
    try:
        with mesh.last_words():
            if mesh.rank == 1:
                raise KeyError("k")
            mesh.sum_across_ranks(torch.ones(3))
    except KeyError as error:
        mesh._neighbours.close()
        return repr(error)
    except LostRankError as error:
        return str(error)
