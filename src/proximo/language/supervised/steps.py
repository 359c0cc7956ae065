"""What SFT and the reward model share: step size, optimiser, order of rows, a clock."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from proximo.errors import UserError
from proximo.runs.storage.checkpoint import under
from proximo.runs.storage.files import write_atomically


def learning_rate_factor(progress: float, warmup: float, schedule: Literal["cosine", "linear", "constant"]) -> float:
    """Share of the highest step size at `progress` in [0, 1]: up in a line during the warm-up, then down to 0."""
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    rest = min((progress - warmup) / (1.0 - warmup), 1.0)
    return 0.5 * (1.0 + math.cos(math.pi * rest)) if schedule == "cosine" else 1.0 - rest


@dataclass
class Clock:
    """Progress of a training that is bounded by steps and, maybe, by minutes."""

    steps: int
    minutes: float | None
    per_epoch: int = 1
    """Steps of one pass over the rows."""
    done: int = 0
    spent: float = 0.0
    """Seconds before `start`, in earlier calls."""
    _started: float | None = field(default_factory=time.perf_counter)

    def start(self) -> None:
        """Count time from now."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Count no more."""
        self.spent, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return self.spent + (time.perf_counter() - self._started if self._started is not None else 0.0)

    @property
    def progress(self) -> float:
        """In [0, 1], in the middle of the step that comes: neither the first nor the last has a step size of 0."""
        by_steps = (self.done + 0.5) / self.steps
        by_time = self.seconds / (60.0 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    @property
    def cut(self) -> str:
        """What the time limit took away from a training that has ended, in a sentence; "" if it took nothing."""
        if self.done >= self.steps:
            return ""
        return (
            f"the clock cut this stage: {self.minutes:g} minutes were over after {self.done:,} of {self.steps:,} "
            "steps; raise minutes to train it to its end"
        )

    @property
    def ended(self) -> bool:
        """Whether steps or minutes are used up."""
        return self.done >= self.steps or (self.minutes is not None and self.seconds >= 60.0 * self.minutes)


class Optimizer:
    """AdamW with a schedule and clipping by global norm.

    Args:
        groups: parameters with their highest step size.
        config: weight_decay, warmup, schedule, max_grad_norm.
    """

    def __init__(self, groups: Iterable[tuple[Iterable[nn.Parameter], float]], config: Any) -> None:
        self.config = config
        self._peaks: list[float] = []
        tables: list[dict[str, Any]] = []
        for parameters, peak in groups:
            trained = [p for p in parameters if p.requires_grad]
            for matrices in (True, False):
                table = [p for p in trained if (p.dim() >= 2) == matrices]
                if table:
                    tables.append({"params": table, "weight_decay": config.weight_decay if matrices else 0.0})
                    self._peaks.append(peak)
        self.parameters: list[nn.Parameter] = [p for table in tables for p in table["params"]]
        # β2 .95 forgets the large gradients of the first steps within tens of steps: these are short trainings.
        self._adam = torch.optim.AdamW(tables, lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=True)

    def clip(self) -> float:
        """Scale the gradient down to the highest norm; returns the norm that it had."""
        return float(nn.utils.clip_grad_norm_(self.parameters, self.config.max_grad_norm))

    def step(self, progress: float) -> float:
        """One step and an empty gradient; returns the first group's step size."""
        factor = learning_rate_factor(progress, self.config.warmup, self.config.schedule)
        for group, peak in zip(self._adam.param_groups, self._peaks, strict=True):
            group["lr"] = factor * peak
        self._adam.step()
        self.zero_grad()
        return factor * self._peaks[0]

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._adam.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """Weights and moments, for a checkpoint."""
        tensors = {f"trained/{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, p in enumerate(self.parameters):
            tensors |= {f"optimizer/{i}/{name}": x for name, x in self._adam.state[p].items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it is of other weights.
        """
        own = {name for name in tensors if name.startswith("trained/")}
        shapes = {f"trained/{i}": p.shape for i, p in enumerate(self.parameters)}
        if own != set(shapes) or any(tensors[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("the checkpoint holds other weights than are trained here")
        for i, p in enumerate(self.parameters):
            with torch.no_grad():
                p.copy_(tensors[f"trained/{i}"])
            moments = under(f"optimizer/{i}/", tensors)
            self._adam.state[p] = {name: x.to(p.device, copy=True) for name, x in moments.items()}


def shuffled_batches(rows: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Batches of row indices without end, each pass in a new order; the last batch of a pass may be short."""
    epoch = 0
    while True:
        order = torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch)).tolist()
        yield from (order[i : i + batch] for i in range(0, rows, batch))
        epoch += 1


def shuffled_runs(rows: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Batches of neighbouring rows without end, in a new order of batches each pass."""
    for chunk in shuffled_batches(-(-rows // batch), 1, seed):
        yield list(range(chunk[0] * batch, min((chunk[0] + 1) * batch, rows)))


def steps_of(rows: int, batch: int, epochs: float) -> int:
    """Steps of a training, at least one."""
    return max(1, round(epochs * -(-rows // batch)))


def check_finite(loss: float, norm: float, output: str, texts: Callable[[], Sequence[str]], step: int) -> None:
    """Ends a training, before the step is taken, whose loss or gradient is NaN or infinite.

    Args:
        loss: of the step.
        norm: of its gradient.
        output: folder that receives the batch.
        texts: of the batch.
        step: counted from 1.

    Raises:
        UserError: names the file with the batch.
    """
    if math.isfinite(loss) and math.isfinite(norm):
        return
    path = Path(output or ".") / "failed_batch.jsonl"
    write_atomically(path, "".join(json.dumps({"text": text}) + "\n" for text in texts()).encode())
    raise UserError(
        f"step {step} has loss {loss} and gradient norm {norm}: its batch is in {path}; lower learning_rate, or look "
        "at that batch"
    )


def on(device: torch.device, tensors: Iterable[Tensor]) -> list[Tensor]:
    """The tensors on a device."""
    return [x.to(device) for x in tensors]
