import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from proximo.errors import UserError
from proximo.runs.storage.checkpoint import load_checkpoint, save_checkpoint
from proximo.runs.storage.random_state import Generators, OwnStreams, capture, restore, seed_streams

KINDS: dict[str, Callable[[], np.random.Generator | torch.Generator]] = {
    "torch": lambda: torch.Generator().manual_seed(3),
    "PCG64": lambda: np.random.default_rng(3),
    "Philox": lambda: np.random.Generator(np.random.Philox(3)),
    "MT19937": lambda: np.random.Generator(np.random.MT19937(3)),
    "SFC64": lambda: np.random.Generator(np.random.SFC64(3)),
}


def draw(generators: Generators) -> list:
    drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.randn(3).tolist()]
    for generator in generators.values():
        if isinstance(generator, torch.Generator):
            drawn.append(torch.randn(3, generator=generator).tolist())
        else:
            drawn += [generator.integers(7, dtype=np.uint32), generator.normal(), generator.random(3).tolist()]
    return drawn


def test_every_generator_goes_on_where_it_was_after_a_journey_through_a_checkpoint(tmp_path: Path):
    generators = {name: make() for name, make in KINDS.items()}
    draw(generators)  # an odd number of gaussians and of 32-bit words: half of a pair lies in each state
    tensors, state = capture(generators)
    assert all(name.startswith("random/") for name in tensors)
    path = save_checkpoint(tmp_path, "best", tensors | {"weights": torch.ones(1)}, {"random": state})
    expected = [draw(generators) for _ in range(3)]
    fresh = {name: make() for name, make in KINDS.items()}
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    loaded, loaded_state = load_checkpoint(path)
    restore(loaded, loaded_state["random"], fresh)
    assert [draw(fresh) for _ in range(3)] == expected


def test_capturing_draws_nothing_and_is_no_view():
    generators = {"a": np.random.default_rng(0), "b": torch.Generator()}
    tensors, state = capture(generators)
    first = draw(generators)
    restore(tensors, state, generators)
    assert draw(generators) == first
    restore(tensors, state, generators)
    assert draw(generators) == first


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"b": np.random.default_rng(0)},
        {"a": torch.Generator()},
        {"a": np.random.Generator(np.random.SFC64(0))},
    ],
)
def test_other_generators_than_were_captured_are_refused(given: Generators):
    tensors, state = capture({"a": np.random.default_rng(0)})
    before = random.getstate()
    with pytest.raises(UserError, match="random generators"):
        restore(tensors, state, given)
    assert random.getstate() == before


def test_the_state_of_missing_cuda_devices_is_not_dropped_in_silence():
    tensors, state = capture()
    with pytest.raises(UserError, match="CUDA devices"):
        restore(tensors, state | {"cuda": torch.cuda.device_count() + 1})


def test_who_goes_on_with_another_number_of_ranks_needs_not_as_many_devices():
    tensors, state = capture({"noise": torch.Generator().manual_seed(3)})
    generator = torch.Generator().manual_seed(5)
    state = {**state, "cuda": torch.cuda.device_count() + 4}
    with OwnStreams(1):
        restore(tensors, state, {"noise": generator}, reshared=True)
        left = torch.rand(2)
    with OwnStreams(1):
        assert torch.rand(2).equal(left)  # ranks would all draw what rank 0 had before
    assert generator.initial_seed() == 5
    assert torch.rand(1, generator=generator).equal(torch.rand(1, generator=torch.Generator().manual_seed(5)))


def test_streams_follow_from_seed_rank_and_index_and_the_callers_are_put_back():
    def drawn(*words):
        with OwnStreams(0):
            seed_streams(*words)
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    seen = [drawn(*words) for words in [(3, 0, 0), (3, 1, 0), (3, 0, 5), (4, 0, 0), (-3, 0, 0)]]
    assert len({x for row in seen for x in row}) == 15
    before = random.getstate(), torch.get_rng_state()
    assert drawn(3, 0, 0) == seen[0]
    assert random.getstate() == before[0]
    assert torch.get_rng_state().equal(before[1])


def test_within_a_runs_streams_the_caller_can_go_on_with_its_own():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = torch.rand(1)
    with OwnStreams(5) as streams:
        mine = torch.rand(1)
        with streams.aside():
            second = torch.rand(1)
        more = torch.rand(1)
    assert torch.cat([first, second, torch.rand(1)]).equal(expected)
    with OwnStreams(5):
        assert torch.rand(2).equal(torch.cat([mine, more]))
