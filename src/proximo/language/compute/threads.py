"""How many threads compute on a CPU: one per core, or fewer where other programs take some of the cores.

A product is done when its slowest thread is, so one thread that has to wait for its core holds up all the others: with
one of two cores taken, two threads are slower than one.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_GAIN = 1.1
"""Fewer threads have to be this much faster: the timing is off by a few hundredths."""


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads, or with as many as there are cores if these are fewer, and then as before.

    Args:
        count: None changes nothing.
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(min(count, max(cores(), before)))
        yield
    finally:
        torch.set_num_threads(before)


def cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def free_threads() -> int:
    """The number of threads with which products are fastest now, up to what torch is set to.

    A number that the user set by `OMP_NUM_THREADS` or `MKL_NUM_THREADS` stays.
    """
    all_threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ:
        return all_threads
    with using_threads(None):
        return fastest(all_threads, lambda threads: _speed(threads, all_threads))


def fastest(most: int, speed: Callable[[int], float]) -> int:
    """The number of threads, from `most` down, that is clearly faster than more of them.

    Tried are all but one and then half of those before, for as long as fewer are faster.

    Args:
        most: threads at most.
        speed: work per second with so many threads.
    """
    best, best_speed = most, speed(most) if most > 1 else 0.0
    for fewer in _fewer(most):
        if (faster := speed(fewer)) > _GAIN * best_speed:
            best, best_speed = fewer, faster
        elif 2 * fewer <= most:
            break
    return best


def _fewer(most: int) -> list[int]:
    halves = [most >> shift for shift in range(1, most.bit_length()) if most >> shift]
    return sorted({most - 1, *halves} - {0}, reverse=True)


def _speed(threads: int, most: int) -> float:
    """Layers of a small language model per second: products, and between them what is done to each number."""
    torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256 * most, 576, generator=generator)
    up, down = (torch.randn(shape, generator=generator) / 24 for shape in ((1536, 576), (576, 1536)))

    def layer(y: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.layer_norm(y, (576,))
        return y + torch.nn.functional.linear(torch.nn.functional.silu(torch.nn.functional.linear(y, up)), down)

    with torch.no_grad():
        layer(x)  # the threads start
        done, began = 0, time.perf_counter()
        while (spent := time.perf_counter() - began) < 0.25:
            layer(x)
            done += 1
    return done / spent


def counted(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread{'' if threads == 1 else 's'}"
