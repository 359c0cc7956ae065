"""Fine-tuning and preference training as runs: what a checkpoint of them holds, their steps, and how they go on."""

import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

from torch import Tensor

from proximo.errors import UserError
from proximo.language.begun import settled
from proximo.language.compute.malloc import FreedMemory
from proximo.language.compute.threads import using_threads
from proximo.language.config import StageConfig
from proximo.language.lineage import check_made_from, check_read, note_made_from
from proximo.language.models.loading import choose_device
from proximo.language.stages import resolved
from proximo.language.supervised.steps import Clock, Optimizer, steps_of
from proximo.runs.console.progress import Column, Mode, Progress
from proximo.runs.session.alone import alone
from proximo.runs.session.opening import Call, Opening
from proximo.runs.session.recorder import Recorder
from proximo.runs.session.session import Session, resume
from proximo.runs.session.signals import Interrupted, StopRequest
from proximo.runs.storage import random_state
from proximo.runs.storage.files import write_atomically
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter

Config = TypeVar("Config", bound=StageConfig)
Order = Callable[[int, int, int], Iterator[list[int]]]
"""Batches of row indices without end, from the number of rows, the batch and the seed."""


class SupervisedTraining(ABC):
    """Gradient steps on batches of rows.

    Args:
        config: what to do.
        optimizer: holds all that is learnt.
        rows: how many there are.
        order: of the rows.
    """

    def __init__(self, config: Any, optimizer: Optimizer, rows: int, order: Order) -> None:
        self.config, self.optimizer = config, optimizer
        self._order = lambda: order(rows, config.batch, config.seed)
        self.batches = self._order()
        self.steps = 0
        per_epoch = steps_of(rows, config.batch, 1.0)
        steps = steps_of(rows, config.batch, config.epochs)
        self.clock = Clock(min(steps, config.steps or steps), config.minutes, per_epoch)
        self.seen: dict[str, float | None] = {}
        """What looks at held-out rows gave."""
        self.unrecorded: dict[str, Any] | None = None
        """What the last step gave, while the look that belongs to it has not been taken."""
        self.interruptible: Callable[[], AbstractContextManager[None]] = nullcontext
        self.reshared = False
        self.other_rows = False
        """Whether `load` takes a checkpoint of other rows."""
        self.ring = None
        """No updates are kept: a failing step is found before it is taken, and keeps its texts."""

    @abstractmethod
    def step(self, progress: float) -> dict[str, float]:
        """One gradient step on the next batch, at `progress` in [0, 1] of the training."""

    @abstractmethod
    def rows_read(self) -> str:
        """The digest of all rows as tokens, see `digest_of`."""

    def prepare(self, tell: Callable[[str], None]) -> None:  # noqa: B027 (most have nothing to do here)
        """What is to be done in each call before the clock starts; `tell` says what takes long."""

    @property
    def done(self) -> int:
        """Steps so far."""
        return self.steps

    @property
    def summary(self) -> dict[str, Any]:
        """Steps and seconds of a training that has ended, and what the time limit took from it."""
        cut = {"cut_by_clock": self.clock.cut} if self.clock.cut else {}
        return {"steps": self.steps, "seconds": round(self.clock.seconds, 1), **cut}

    def iterate(self) -> dict[str, Any]:
        """The next step; what was seen, by name."""
        values = self.step(self.clock.progress)
        self.clock.done = self.steps
        return values

    def rewind(self) -> bool:
        """Go back to before the step in progress."""
        self.optimizer.zero_grad()
        self.batches = islice(self._order(), self.steps, None)
        return True

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the training goes on."""
        tensors, generators = random_state.capture()
        progress = {"steps": self.steps, "seconds": self.clock.seconds}
        return self.optimizer.state() | tensors, {
            "progress": progress,
            "rows_read": self.rows_read(),
            "seen": dict(self.seen),
            "unrecorded": self.unrecorded,
            "random": generators,
        }

    def parts(self) -> dict[str, Tensor]:
        """See `Trained`: one rank has all."""
        return {}

    def own(self, name: str) -> bool:
        """Nothing is: it is trained by one rank."""
        return False

    def reshare(self) -> None:
        """There is nothing to share out."""
        return

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what `state` gave.

        Raises:
            ValueError: it is of other weights.
            UserError: it is of rows that are read as other tokens.
        """
        check_read(state, "rows_read", self.rows_read(), allowed=self.other_rows)
        self.optimizer.load_state(tensors)
        self.steps = self.clock.done = int(state["progress"]["steps"])
        self.clock.spent = float(state["progress"]["seconds"])
        self.seen, self.unrecorded = dict(state["seen"]), state["unrecorded"]
        random_state.restore(tensors, state["random"])
        self.rewind()


Look = Callable[[], Mapping[str, float | None]]
"""A look at held-out rows: what is to be recorded of it."""


@dataclass(frozen=True)
class Stage:
    """A training, made from its settings, and what is its own before and after the steps."""

    title: str
    columns: Sequence[Column]
    training: SupervisedTraining
    messages: Sequence[str]
    """What is to be known of its data, in sentences; empty ones are left out."""
    look: Look
    """Taken after each epoch and after the last step."""
    finish: Callable[[Session], dict[str, Any]]
    """Write the model that was trained; gives the results."""
    first_look: Look | None = None
    """Taken before the first step of all."""


def run_stage(
    config: Config, make: Callable[[Config], Stage], *, console: Mode, call: Call | None = None
) -> dict[str, Any]:
    """A stage from start to result: its folder, where it goes on, its steps, its model, its results.

    Args:
        config: what to do.
        make: the stage from its settings, complete.
        console: how progress is shown.
        call: how this call begins and ends.

    Returns:
        What the stage came to, now or before; of one that was stopped, `stopped` and steps.

    Raises:
        UserError: no data or no folder is named, another training is there, a model that it was made from is another
            by now, or what it is made of can not be used.
    """
    call = call or Call()
    opening, remark = _opened(config, call)
    if done := opening.results:
        return done
    with using_threads(opening.config.threads), ExitStack() as stack:
        stage = make(opening.config)
        session = _begun(stack, opening, stage, remark, console)
        if stopped := run_steps(stage, session):
            return stopped
        results = stage.finish(session)
        write_atomically(session.folder.results, json.dumps(results, indent=1).encode())
        # The model is in the folder; a leftover costs space and nothing else.
        shutil.rmtree(session.folder.checkpoints, ignore_errors=True)
        return results


def _opened(config: StageConfig, call: Call) -> tuple[Opening, str]:
    """What is in a stage's output folder, beside what is asked for; and a sentence on the type it computes in."""
    if not config.data:
        raise UserError(
            "no data is named: give --data (in Python data=, or pairs= for a reward model or judge), a .jsonl or "
            ".parquet file or a folder saved by datasets"
        )
    if not config.output:
        raise UserError("no output folder is named: give --run (in Python run=)")
    folder = RunFolder(config.output)
    config, remark = settled(config, folder, call, choose_device(config.device))
    opening = Opening(folder, config, "model", call, resolved=resolved, final=True)
    check_made_from(opening)
    return opening, remark


def _begun(stack: ExitStack, opening: Opening, stage: Stage, remark: str, console: Mode) -> Session:
    """Open the folder and go on where its last checkpoint is; everything closes with `stack`."""
    training, call = stage.training, opening.call
    stack.enter_context(alone(f"{stage.title} in {opening.folder.path}"))
    stack.enter_context(random_state.OwnStreams(opening.config.seed))
    folder = stack.enter_context(opening.open())
    note_made_from(folder, opening.config)
    metrics = stack.enter_context(MetricsWriter(folder.path, tensorboard=False))
    training.other_rows = call.allow_change
    if opening.resumed:
        resume(training, folder, metrics)
    shown: dict[str, Any] = {"mode": console, "folder": folder.path, "start": training.done, "columns": stage.columns}
    progress = stack.enter_context(Progress(stage.title, training.clock.steps, **shown))
    for text in filter(None, (remark, *stage.messages, opening.settle(f"{training.done:,} steps"))):
        progress.message(text)
    return Session(training, folder, Recorder(metrics, progress), StopRequest(), call.stop_at)


def run_steps(stage: Stage, session: Session) -> dict[str, Any] | None:
    """Step to the end; None when all steps are done and saved, or else the results of a training that was stopped."""
    training = stage.training
    training.prepare(session.recorder.progress.message)
    training.clock.start()
    with session.stop:
        with suppress(Interrupted):  # by a stop that can not wait for a look, which is then taken later
            _step_to_the_end(stage, session)
        training.clock.stop()
        _say_why_it_ended(training, session)
        session.save()  # what is left to do, a last evaluation and writing the model, may be killed
        if session.stop.requested is None and training.clock.ended:
            return None
        session.recorder.progress.message(
            f"{session.stopped}: saved in {session.folder.path}; the same command resumes"
        )
        return {"stopped": session.stopped, "steps": training.done}


def _say_why_it_ended(training: SupervisedTraining, session: Session) -> None:
    if training.clock.ended and (cut := training.clock.cut):
        session.recorder.progress.warning(f"WARNING: {cut}")


def _step_to_the_end(stage: Stage, session: Session) -> None:
    training = stage.training
    if stage.first_look is not None and not training.seen:
        with training.interruptible():
            seen = stage.first_look()
        _record(session, 0, seen)
        training.clock.start()  # it was not training time
    freed = FreedMemory()
    while True:
        if training.unrecorded is not None:
            values = dict(training.unrecorded)
            if training.clock.ended or training.done % training.clock.per_epoch == 0:
                training.clock.stop()  # as the first look is, this is no training time
                with training.interruptible():
                    values |= stage.look()
                training.clock.start()
            training.unrecorded = None
            _record(session, training.done, values)
            if session.due(training.done - 1):
                session.save()
        if training.clock.ended or session.stopped:
            return
        training.unrecorded = session.iterate()
        freed.tidy()


def _record(session: Session, step: int, values: Mapping[str, Any]) -> None:
    session.recorder.metrics.write(step, values)
    session.recorder.progress.update(step, values)
