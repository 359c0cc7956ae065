"""The state of every random generator as tensors and JSON, for a resume that is exact to the bit."""

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Self

import numpy as np
import torch

from proximo.errors import UserError

Generators = Mapping[str, torch.Generator | np.random.Generator]

_PREFIX = "random"
_STREAMS = 20  # a purpose of seeds, apart from those of control.seeds


def capture(generators: Generators | None = None) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Takes the state of Python's `random`, numpy's and torch's global generators, and of those named.

    CUDA's are taken once CUDA is in use: asking earlier would start it.

    Args:
        generators: The run's own generators under names that stay the same over a resume.

    Returns:
        uint8 tensors whose names begin with "random/", and the JSON that says what they are.
    """
    tensors: dict[str, torch.Tensor] = {f"{_PREFIX}/torch": torch.get_rng_state()}
    version, words, gauss = random.getstate()
    python = {"version": version, "words": np.asarray(words, np.uint32), "gauss": gauss}
    state: dict[str, Any] = {
        "python": _pack(python, f"{_PREFIX}/python", tensors),
        "numpy": _pack(np.random.get_state(legacy=False), f"{_PREFIX}/numpy", tensors),
        "cuda": 0,
        "generators": {},
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states = torch.cuda.get_rng_state_all()
        state["cuda"] = len(states)
        tensors |= {f"{_PREFIX}/cuda/{index}": device_state for index, device_state in enumerate(states)}
    for name, generator in (generators or {}).items():
        key = f"{_PREFIX}/generators/{name}"
        if isinstance(generator, torch.Generator):
            tensors[key] = generator.get_state()
            state["generators"][name] = "torch"
        else:
            state["generators"][name] = _pack(generator.bit_generator.state, key, tensors)
    return tensors, state


def restore(
    tensors: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    generators: Generators | None = None,
    *,
    reshared: bool = False,
) -> None:
    """Puts back what `capture` took.

    Args:
        tensors: Its tensors; others among them are left alone.
        state: Its JSON.
        generators: As given to `capture`: the same names and kinds.
        reshared: Whether it is of another number of ranks: all is then left, since whoever goes on may have other
            devices, and gives each stream and generator a seed of its own (`seed_streams`).

    Raises:
        UserError: Other generators, or fewer CUDA devices, than were captured: the resume would not be exact.
    """
    generators = generators or {}
    _require_same(state if not reshared else {**state, "cuda": 0}, generators)
    if reshared:
        return
    python = _unpack(state["python"], tensors)
    random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    np.random.set_state(_unpack(state["numpy"], tensors))
    torch.set_rng_state(tensors[f"{_PREFIX}/torch"])
    for index in range(state["cuda"]):
        torch.cuda.set_rng_state(tensors[f"{_PREFIX}/cuda/{index}"], index)
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            generator.set_state(tensors[f"{_PREFIX}/generators/{name}"])
        else:
            generator.bit_generator.state = _unpack(state["generators"][name], tensors)


class OwnStreams(AbstractContextManager["OwnStreams"]):
    """Within, the global streams of Python, numpy and torch are a run's own and follow from its seed.

    So a network or an environment of the user's that draws from them has its part in "the same seed gives the same
    run". The caller's streams are as they were afterwards: who draws settings in a loop of trainings draws new ones.

    Args:
        seed: of the run.
        rank: of this process among those that train together.
    """

    def __init__(self, seed: int, rank: int = 0) -> None:
        self._seed, self._rank = seed, rank

    def __enter__(self) -> Self:
        """Put the caller's away."""
        self._theirs = _streams()
        seed_streams(self._seed, self._rank)
        return self

    def __exit__(self, *_: object) -> None:
        """Put them back."""
        _set_streams(self._theirs)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Within, the caller goes on with its own."""
        ours = _streams()
        _set_streams(self._theirs)
        try:
            yield
        finally:
            self._theirs = _streams()
            _set_streams(ours)


def seed_streams(seed: int, rank: int, index: int = 0) -> None:
    """Have the global streams of Python, numpy and torch follow from a run's seed.

    Args:
        seed: of the run.
        rank: of this process.
        index: another one gives others.
    """
    words = np.random.SeedSequence((abs(seed) * 2 + (seed < 0), rank, index, _STREAMS)).generate_state(3).tolist()
    random.seed(words[0])
    np.random.seed(words[1])
    torch.manual_seed(words[2])


def _streams() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), cuda


def _set_streams(states: tuple[Any, ...]) -> None:
    python, numpy, torchs, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(torchs)
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def _require_same(state: Mapping[str, Any], generators: Generators) -> None:
    stored, given = {name: _kind(packed) for name, packed in state["generators"].items()}, dict[str, str]()
    for name, generator in generators.items():
        given[name] = "torch" if isinstance(generator, torch.Generator) else _kind(generator.bit_generator.state)
    if stored != given:
        raise UserError(
            f"the checkpoint holds the random generators {stored} and this run has {given}: start a new run"
        )
    devices = torch.cuda.device_count() if state["cuda"] else 0
    if devices < state["cuda"]:
        raise UserError(
            f"the checkpoint holds the random state of {state['cuda']} CUDA devices and this machine has {devices}: "
            "resume on a machine with as many"
        )


def _kind(packed: Any) -> str:
    return packed if isinstance(packed, str) else str(packed["bit_generator"])


def _pack(value: Any, key: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` for JSON, its arrays moved into `tensors` as bytes (torch has too few operations on unsigned words)."""
    if isinstance(value, Mapping):
        return {name: _pack(item, f"{key}/{name}", tensors) for name, item in value.items()}
    if isinstance(value, np.ndarray):
        tensors[key] = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8)
        return {"tensor": key, "dtype": value.dtype.str}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(packed, Mapping) and packed.keys() == {"tensor", "dtype"}:
        return np.frombuffer(tensors[packed["tensor"]].numpy().tobytes(), np.dtype(packed["dtype"]))
    if isinstance(packed, Mapping):
        return {name: _unpack(item, tensors) for name, item in packed.items()}
    return packed
