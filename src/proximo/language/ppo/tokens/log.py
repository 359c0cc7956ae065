"""`RUN/tokens`: a record of each iteration, within a bound on the disk."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proximo.core.divergences import kl_k1
from proximo.language.ppo.tokens.record import FOLDER, LARGEST, TokenRecord, file_of, halved, recorded
from proximo.language.ppo.training import PPOTraining
from proximo.runs.storage.files import user_error
from proximo.runs.storage.folder import RunFolder


class TokenLog:
    """Writes the record of each iteration.

    Args:
        folder: of the run.
        megabytes: bound of all files together. Where it is passed the oldest go, but the very first, which all others
            are compared with. 0 records nothing.

    Raises:
        UserError: the disk refuses (here and in `keep`).
    """

    def __init__(self, folder: RunFolder, megabytes: float) -> None:
        self.run, self._bound, self._told = folder.path, megabytes * 1e6, set[str]()
        try:
            self._sizes = {iteration: file.stat().st_size for iteration, file in recorded(self.run).items()}
        except OSError as error:
            raise user_error(error, self.run / FOLDER, "reading") from error

    def keep(self, training: PPOTraining) -> list[str]:
        """Record the iteration that has just ended; sentences on what is to be known, each of them once."""
        if self._bound <= 0 or (record := record_of(training)) is None:
            return []
        data, file, told = record.to_bytes(), file_of(self.run, record.iteration), {}
        if record.clamped:
            told["clamped"] = (
                f"tokens: {record.clamped} numbers of iteration {record.iteration} do not fit into float16 and are "
                f"recorded as ±{LARGEST:,.0f}, or 0 for what is no number; training has them as they are"
            )
        bound = f"record_mb = {self._bound / 1e6:g}"
        if len(data) > self._bound:
            told["large"] = f"tokens: iteration {record.iteration} takes {len(data) / 1e6:.2g} MB, more than {bound}, "
            told["large"] += "and is not recorded"
        else:
            self._write(file, data, record.iteration)
            if self._make_room(record.iteration):
                told["full"] = f"tokens: {bound} is full, so the oldest records but the first are deleted"
        news = [text for topic, text in told.items() if topic not in self._told]
        self._told.update(told)
        return news

    def _write(self, file: Path, data: bytes, iteration: int) -> None:
        """Whole or not at all. It is not forced to the disk, which would cost ten times the rest: no run needs it."""
        temporary = file.with_name(f".{file.name}.tmp")
        try:
            file.parent.mkdir(exist_ok=True)
            temporary.write_bytes(data)
            os.replace(temporary, file)
        except OSError as error:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise user_error(error, file) from error
        self._sizes[iteration] = len(data)

    def _make_room(self, newest: int) -> bool:
        """Delete what is over the bound; whether anything was."""
        first, removed = min(self._sizes), False
        while sum(self._sizes.values()) > self._bound:
            oldest = min((i for i in self._sizes if i not in (first, newest)), default=first)
            file = file_of(self.run, oldest)
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise user_error(error, file, "removing") from error
            del self._sizes[oldest]
            removed = True
        return removed


def cut_tokens(folder: RunFolder, iterations: int) -> None:
    """Leave out what was recorded after the checkpoint that the run goes on from, and what a kill left half-written.

    Args:
        folder: of the run.
        iterations: done at that checkpoint.

    Raises:
        UserError: the disk refuses.
    """
    later = [file for iteration, file in recorded(folder.path).items() if iteration >= iterations]
    for file in [*later, *(folder.path / FOLDER).glob(".*.tmp")]:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise user_error(error, file, "removing") from error


def record_of(training: PPOTraining) -> TokenRecord | None:
    """The last iteration; None where none has ended."""
    if (seen := training.last) is None or training.learnt is None:
        return None
    batch, beta = training.learnt
    lengths = seen.samples.lengths
    real = torch.arange(batch.action.shape[1], device=lengths.device) < lengths.unsqueeze(1)
    reference = seen.ref_log_prob
    k1 = None if reference is None else torch.where(real, kl_k1(batch.log_prob, reference), 0.0)
    prompts = [
        ids[:n] for ids, n in zip(_array(batch.inputs["tokens"]), _array(batch.inputs["prompt_lengths"]), strict=True)
    ]
    columns = {"log_prob": batch.log_prob, "advantage": batch.advantages}
    columns |= {"kl": k1} if k1 is not None else {}
    columns |= {"value": batch.value} if training.algorithm.critic else {}
    halves = {name: halved(_array(column[real])) for name, column in columns.items()}
    return TokenRecord(
        iteration=training.progress.iterations - 1,
        responses=training.done,
        beta=beta,
        price=0.0 if training.algorithm.kl_in_the_loss or k1 is None else beta,
        combine=training.config.combine,
        weights={term.name: term.weight for term in training.rewards},
        clamped=sum(lost for _, lost in halves.values()),
        tokens=_array(batch.action[real]).astype(np.int32),
        **{name: halves[name][0] if name in halves else None for name in ("log_prob", "advantage", "kl", "value")},  # type: ignore[arg-type]
        lengths=_array(lengths).astype(np.int32),
        prompt_tokens=np.concatenate(prompts).astype(np.int32),
        prompt_lengths=np.array([len(ids) for ids in prompts], np.int32),
        finished=_array(seen.samples.finished).astype(bool),
        score=_array(seen.scores.float()),
        rewarded=_array(seen.rewarded.float()),
        divergence=np.zeros(len(prompts), np.float32) if k1 is None else _array(k1.float().sum(1)),
        terms={name: _array(scores.float()) for name, scores in seen.each.items()},
    )


def _array(x: Tensor) -> np.ndarray:
    return np.asarray(x.detach().cpu())
