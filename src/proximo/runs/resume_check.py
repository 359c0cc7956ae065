"""Proof that a run which stops and resumes is the run that never stopped, bit for bit, or the place where it is not."""

import itertools
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from proximo.errors import UserError
from proximo.runs import new_process
from proximo.runs.config.toml import to_toml
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, parts_of, step_name, step_of
from proximo.runs.storage.metrics import read_metrics

Train = Callable[[Path, int], Any]
"""Trains in a folder, or resumes there, and stops with a checkpoint at a number of steps."""

_OF_THE_MACHINE = ("time", "seconds", "memory", "tokens_per_second", "health", "findings")
_OF_HASHES = (
    "it repeats within one process and not in the next, as what is made of hash() of a text does (or of the order of a "
    "set): take zlib.crc32 or hashlib instead, and sort"
)
_ONE_PROCESS = "all in one process, for it is given as Python objects: what changes with a process was not tested"
_OF_THE_PROCESS = ("random/torch", "random/numpy", "random/python", "random/cuda")


@dataclass(frozen=True)
class Comparison:
    """A run beside the one that went through."""

    what: str
    """Treatment of this run."""
    exact: bool
    tensors: tuple[str, ...] = ()
    """Those of the last checkpoint that differ."""
    largest: float = 0.0
    """Largest difference in them, relative to the tensor's largest number."""
    settings: tuple[str, ...] = ()
    """Other differences in the checkpoint."""
    iteration: int | None = None
    """The first one whose metrics differ, counted from 1."""
    metrics: tuple[str, ...] = ()
    """Those that differ in it."""

    @property
    def line(self) -> str:
        """One sentence."""
        if self.exact:
            return f"{self.what}: equal to the last bit"
        found = []
        if self.iteration is not None:
            found.append(f"iteration {self.iteration} is the first that differs, in {_some(self.metrics)}")
        if self.tensors:
            found.append(f"{_some(self.tensors)} differ in the checkpoint, by up to {self.largest:.1e} of their size")
        if self.settings:
            found.append(f"{_some(self.settings)} in the checkpoint's state differ")
        return f"{self.what}: NOT equal; {'; '.join(found)}"


@dataclass(frozen=True)
class Verification:
    """Comparisons of a check, and the causes of what is not exact."""

    comparisons: tuple[Comparison, ...]
    causes: tuple[str, ...] = ()
    """Why it cannot hold, as far as it was found."""
    new_processes: bool = True
    """True if each part was trained by an interpreter of its own, as it is when a command is given again."""

    @property
    def exact(self) -> bool:
        """True if every run was the one that went through."""
        return all(comparison.exact for comparison in self.comparisons)

    @property
    def lines(self) -> list[str]:
        """For people."""
        verdict = "this run resumes exactly" if self.exact else "this run does NOT resume exactly"
        lines = [verdict, *(f"  {c.line}" for c in self.comparisons), *(f"because {cause}" for cause in self.causes)]
        if not self.new_processes:
            lines.append(_ONE_PROCESS)
        return lines

    def __str__(self) -> str:
        """The verdict, what was compared, and the causes."""
        return "\n".join(self.lines)

    def describe(self) -> dict[str, Any]:
        """For JSON."""
        comparisons = [asdict(c) for c in self.comparisons]
        causes = list(self.causes)
        return {
            "exact": self.exact,
            "new_processes": self.new_processes,
            "comparisons": comparisons,
            "causes": causes,
        }


def in_new_processes(train: str, config: Any) -> Train:
    """Trains each time in an interpreter of its own, each with another seed of `hash`.

    Args:
        train: `module:name`, called with the path of a TOML file, `folder` and `stop_at`, as texts.
        config: a dataclass; what is in the file.
    """
    hash_seeds = itertools.count(1)

    def leg(folder: Path, stop_at: int) -> None:
        file = folder.parent / "settings.toml"
        file.write_text(to_toml(config), "utf-8")
        new_process.call(train, str(file), str(folder), str(stop_at), hash_seed=next(hash_seeds))

    return leg


def verify(
    train: Train, *, middle: int, end: int, causes: Callable[[], list[str]], new_processes: bool
) -> Verification:
    """Train through, with a stop, after a kill and, if one of these differs, once more; nothing of it stays.

    Args:
        train: with a scheduled checkpoint somewhere after `middle` and before `end`.
        middle: where to stop for a while.
        end: where to stop for good.
        causes: asked when something differs; what of the world is not repeatable within one process.
        new_processes: whether `train` begins one each time.
    """
    with tempfile.TemporaryDirectory(prefix="proximo-verify-") as home:
        return _verify(train, Path(home), middle, end, causes, new_processes)


def _verify(
    train: Train, home: Path, middle: int, end: int, causes: Callable[[], list[str]], new_processes: bool
) -> Verification:
    whole, stopped, killed = home / "whole", home / "stopped", home / "killed"
    train(whole, end)
    train(stopped, middle)
    train(stopped, end)
    found = [compare("stopped and resumed", whole, stopped)]
    shutil.rmtree(stopped)  # a language model's checkpoints may be gigabytes
    shutil.copytree(whole, killed)
    if scheduled := _forget_the_last(killed / "checkpoints"):
        train(killed, end)
        found.append(compare(f"killed and resumed from the checkpoint at {scheduled:,}", whole, killed))
    if all(comparison.exact for comparison in found):
        return Verification(tuple(found), new_processes=new_processes)
    train(home / "again", end)
    again = compare("not stopped, only done again", whole, home / "again")
    reasons = causes()
    if not again.exact:
        if new_processes and not reasons:
            reasons.append(_OF_HASHES)
        reasons.append("the same settings do not give the same run twice, so that no stop is to blame")
    elif not reasons:
        reasons.append("the run itself is repeatable, so that a checkpoint must lack something: please report it")
    return Verification((*found, again), tuple(reasons), new_processes)


def compare(what: str, whole: Path, other: Path) -> Comparison:
    """Two runs' last checkpoints and metrics.

    Args:
        what: happened to the other.
        whole: folder of the one that went through.
        other: folder of the other.

    Raises:
        UserError: one of them has no checkpoint.
    """
    (a, state_a), (b, state_b) = (_last(folder) for folder in (whole, other))
    tensors = [name for name in sorted(a.keys() | b.keys()) if not _same(a.get(name), b.get(name))]
    tensors = [name for name in tensors if not name.startswith(_OF_THE_PROCESS)]
    settings = [key for key in sorted(state_a.keys() | state_b.keys()) if state_a.get(key) != state_b.get(key)]
    settings = [key for key in settings if key != "random" or "random/generators" in str(tensors)]
    iteration, metrics = _first_difference(whole, other)
    exact = not (tensors or settings or metrics)
    largest = max((_distance(a.get(name), b.get(name)) for name in tensors), default=0.0)
    return Comparison(what, exact, tuple(tensors), largest, tuple(settings), iteration, metrics)


def _last(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    path = latest_checkpoint(folder / "checkpoints")
    if path is None:
        raise UserError(f"{folder} has no checkpoint to compare: give more iterations")
    tensors, state = load_checkpoint(path)
    place = parts_of(path)
    for i, file in enumerate(sorted(place.glob("*.safetensors")) if place is not None else ()):
        tensors |= {f"parts/{i}/{name}": x for name, x in safetensors.torch.load_file(file).items()}
    return tensors, state


def _first_difference(whole: Path, other: Path) -> tuple[int | None, tuple[str, ...]]:
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (whole, other)]
    for i in range(max(map(len, rows))):
        one, two = (r[i] if i < len(r) else {} for r in rows)
        keys = [key for key in sorted(one.keys() | two.keys()) if not key.startswith(_OF_THE_MACHINE)]
        if differing := tuple(key for key in keys if one.get(key) != two.get(key)):
            return i + 1, differing
    return None, ()


def _forget_the_last(checkpoints: Path) -> int | None:
    """Remove the numbered checkpoint that a kill would have prevented; the step of the one before, if there is one."""
    steps = sorted(step for item in checkpoints.iterdir() if (step := step_of(item.name)) is not None)
    if len(steps) < 2:
        return None
    shutil.rmtree(checkpoints / step_name(steps[-1]))
    return steps[-2]


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    if a is None or b is None or a.shape != b.shape or a.dtype != b.dtype:
        return False
    # Bits, for NaN is equal to nothing.
    return a.numpy().tobytes() == b.numpy().tobytes() if a.dtype != torch.bfloat16 else torch.equal(a, b)


def _distance(a: torch.Tensor | None, b: torch.Tensor | None) -> float:
    if a is None or b is None or a.shape != b.shape or not a.numel():
        return float("inf")
    a, b = a.double(), b.double()
    return float((a - b).abs().max() / a.abs().max().clamp_min(1e-300))


def _some(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more" if len(names) > 3 else shown
