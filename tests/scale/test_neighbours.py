"""Ranks of one machine meet, or all of them know at once that they can not. They are threads here."""

import errno
import fcntl
import resource
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from proximo.scale import neighbours
from proximo.scale.neighbours import KEY, Neighbours


def meeting(size, trouble=lambda rank, neighbours: None):
    """What each of some ranks has met, where `trouble` may break something first; and the folder they met in."""
    store, votes, barrier = HashStore(), [True] * size, threading.Barrier(size, timeout=100)

    def rank(i):
        def all_have(flag):
            votes[i] = flag
            barrier.wait()
            answer = all(votes)
            barrier.wait()
            return answer

        class Mine(Neighbours):
            def __init__(self, *given):
                super().__init__(*given)
                trouble(i, self)

        return Mine.met(i, size, store, 100.0, all_have)

    with ThreadPoolExecutor(size) as pool:
        met = [future.result(timeout=200) for future in [pool.submit(rank, i) for i in range(size)]]
    return met, store.get(KEY).decode()


def broken(name, of):
    """A step of the meeting that fails on one rank, or on all."""

    def fails(*_):
        raise OSError(errno.ENOSPC, "no space left")

    return lambda rank, neighbours: setattr(neighbours, name, fails) if rank == of else None


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_see_what_all_have_and_the_folder_is_gone(size):
    met, folder = meeting(size)
    with ThreadPoolExecutor(size) as pool:
        seen = list(pool.map(lambda i: [x.item() for x in met[i].exchange(torch.tensor([float(i)]), "a")], range(size)))
    assert seen == [[float(i) for i in range(size)]] * size
    assert folder
    assert not Path(folder).exists()


@pytest.mark.parametrize("step", ["_map", "_connect"])
@pytest.mark.parametrize("rank", [0, 2])
def test_where_one_can_not_all_know_it_at_once_and_nothing_is_left(step, rank):
    def trouble(rank, neighbours):
        neighbours._patience = 0.5  # who waits at a door gives up after a while
        breaks(rank, neighbours)

    breaks = broken(step, rank)
    met, folder = meeting(3, trouble)
    assert met == [None] * 3
    assert not Path(folder).exists()


def test_a_disk_in_memory_that_is_too_small_is_noticed_before_anything_is_summed(monkeypatch):
    def full(path, content):
        assert len(content) >= 4 * torch.finfo(torch.float32).bits
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    before = set(Path("/dev/shm").glob("proximo-*"))
    met, folder = meeting(2)
    assert (met, folder) == ([None, None], "")
    assert set(Path("/dev/shm").glob("proximo-*")) <= before


@pytest.fixture
def far_sockets():
    """Two connected sockets, in a process that has opened more than a thousand files before."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, limits[1]), limits[1]))
    near = socket.socketpair()
    there, here = (socket.socket(fileno=fcntl.fcntl(each, fcntl.F_DUPFD, 2000)) for each in near)
    here.setblocking(False)
    yield there, here
    for each in (there, here, *near):
        each.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_rank_with_many_files_open_sleeps_until_it_hears_another(far_sockets, monkeypatch):
    there, here = far_sockets
    monkeypatch.setattr(neighbours, "_AWAKE", -1.0)  # it sleeps at once
    with pytest.raises(TimeoutError, match="not heard of for 0 s"):
        Neighbours(0, 2, None, 0.01)._heard(here)
    with ThreadPoolExecutor(1) as pool:
        heard = pool.submit(Neighbours(0, 2, None, 100.0)._heard, here)
        there.sendall(b"12345678")
        assert heard.result(timeout=200) == b"12345678"
