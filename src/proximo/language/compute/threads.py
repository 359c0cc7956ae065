"""How many threads compute on a CPU: one per core, or fewer where other programs take some of the cores.

A product is done when its slowest thread is, so one thread that has to wait for its core holds up all the others: with
one of two cores taken, two threads are slower than one.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from proximo.scale.cpus import available_cpus


@contextmanager
def using_threads(count: int | None) -> Iterator[None]:
    """Compute with `count` threads, or with as many as there are cores if these are fewer, and then as before.

    Args:
        count: None changes nothing.
    """
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(possible(count))
        yield
    finally:
        torch.set_num_threads(before)


def possible(count: int) -> int:
    """`count` threads, or as many as there are cores, or as torch is set to, if these are fewer."""
    return min(count, max(available_cpus(), torch.get_num_threads()))


def free_threads() -> int:
    """The number of threads with which products are fastest now, up to what torch is set to.

    A number that the user set by `OMP_NUM_THREADS` or `MKL_NUM_THREADS` stays.
    """
    most = torch.get_num_threads()
    if "OMP_NUM_THREADS" in os.environ or "MKL_NUM_THREADS" in os.environ:
        return most
    work = _layers(256 * most)
    with using_threads(None), torch.no_grad():
        return fastest(most, lambda more, fewer: _race(work, more, fewer))


def fastest(most: int, race: Callable[[int, int], float]) -> int:
    """The smallest number of threads, from `most` down, that more threads do not clearly beat.

    Tried are one less, and half as many for as long as these are as fast.

    Args:
        most: threads at most.
        race: the speed of its second number of threads over that of its first.
    """
    best = most
    for fewer in sorted({most - 1, *(most >> shift for shift in range(1, most.bit_length()))} - {0}, reverse=True):
        # A free core less costs its share. Half of that, or 5 %, is beyond the noise of a race.
        if race(best, fewer) >= max(0.95, (fewer / best) ** 0.5):
            best = fewer
        elif 2 * fewer <= best:
            break
    return best


def _race(work: Callable[[], object], more: int, fewer: int, rounds: int = 6) -> float:
    """Seconds with `more` threads over those with `fewer`, in turns: other programs come and go meanwhile."""
    seconds = {more: 0.0, fewer: 0.0}
    for _ in range(rounds):
        for threads in seconds:
            torch.set_num_threads(threads)
            work()  # the threads start
            began = time.perf_counter()
            for _ in range(4):
                work()
            seconds[threads] += time.perf_counter() - began
    return seconds[more] / seconds[fewer]


def _layers(tokens: int) -> Callable[[], object]:
    """A layer of a small language model: products, and between them what is done to each number."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(tokens, 576, generator=generator)
    up, down = (torch.randn(shape, generator=generator) / 24 for shape in ((1536, 576), (576, 1536)))

    def layer() -> object:
        y = torch.nn.functional.linear(torch.nn.functional.layer_norm(x, (576,)), up)
        return x + torch.nn.functional.linear(torch.nn.functional.silu(y), down)

    return layer


def counted(threads: int) -> str:
    """1 thread, 2 threads."""
    return f"{threads} thread{'' if threads == 1 else 's'}"
