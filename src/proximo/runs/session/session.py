"""A run while it is trained: resuming from a checkpoint, iterations that leave nothing half-done, and stopping."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

from torch import Tensor

from proximo.core.invariants import InvariantError
from proximo.errors import MALFORMED, UserError
from proximo.runs.console.streams import say
from proximo.runs.replay.ring import Ring
from proximo.runs.session.callbacks import Callbacks
from proximo.runs.session.ranks import of_this_rank, read_apart, with_others, written_apart
from proximo.runs.session.recorder import Recorder
from proximo.runs.session.signals import Interrupted, StopRequest
from proximo.runs.storage.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint, step_name
from proximo.runs.storage.folder import RunFolder
from proximo.runs.storage.metrics import MetricsWriter
from proximo.runs.storage.random_state import OwnStreams
from proximo.scale.mesh import ALONE, LostRankError, Mesh

STOP_AT = "stop-at"
"""Why a run ended that was told where to end."""


class Trained(Protocol):
    """Interface of a training, the same in both worlds."""

    config: Any
    """With `checkpoint_every`, steps between two checkpoints, and `keep`, how many numbered ones stay."""
    interruptible: Callable[[], AbstractContextManager[None]]
    reshared: bool
    """Whether another number of ranks has trained before."""

    @property
    def ring(self) -> Ring | None:
        """Its last updates; None where none are kept."""

    @property
    def done(self) -> int:
        """Environment steps or responses so far."""

    def iterate(self) -> dict[str, Any]:
        """One iteration; what was seen, by name."""

    def rewind(self) -> bool:
        """Go back to before the iteration in progress; False if that is not possible any more."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides how the run continues."""

    def load(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""

    def parts(self) -> dict[str, Tensor]:
        """What is not in `state`, since ranks have parts of it: tensors by name, which are read and filled in place, by
        all ranks together. Empty where `state` has all.
        """

    def own(self, name: str) -> bool:
        """Whether what `state` gives under that name is of one rank alone; all else is the same on all."""

    def reshare(self) -> None:
        """Go on from what other ranks have shared, another number of them: what was their own begins anew."""


class Session:
    """A training in its folder.

    Args:
        training: what is trained.
        folder: open.
        recorder: told of an iteration that fails.
        stop: asked before each iteration and within it.
        stop_at: steps after which to stop; None trains to the end.
        callbacks: the user's; what they need to resume is in each checkpoint.
        trainer: what the callbacks are given.
        mesh: the ranks that train; rank 0 has the folder, and calls the callbacks.
        streams: of random numbers, within which it trains; the loop that is given rows has the caller's.
        moved: see `RunFolder.go_back`; what was said of it before.
    """

    def __init__(
        self,
        training: Trained,
        folder: RunFolder,
        recorder: Recorder,
        stop: StopRequest,
        stop_at: int | None,
        callbacks: Callbacks | None = None,
        trainer: Any = None,
        mesh: Mesh = ALONE,
        streams: OwnStreams | None = None,
        moved: str = "",
    ) -> None:
        self.training, self.folder, self.recorder = training, folder, recorder
        self.stop, self.stop_at = stop, stop_at
        self.callbacks, self.trainer, self.mesh = callbacks or Callbacks(), trainer, mesh
        if mesh.alone:  # one rank must not leave the others within an iteration
            training.interruptible = stop.interruptible
        self._called = not mesh.alone and mesh.any(bool(self.callbacks.names))
        self._streams = streams
        self._agreed: str | None = None
        self._moved = moved
        self.lost = False
        """True if a broken-off update has moved the weights for good: the run resumes from its last checkpoint."""

    @property
    def asked(self) -> str | None:
        """Who has asked to stop: of several ranks what all of them know since `agree`, or one would stop alone."""
        return self.stop.requested if self.mesh.alone else self._agreed

    @property
    def stopped(self) -> str | None:
        """Cause to stop here: a signal's name, `stop-at`, or None."""
        at = self.stop_at
        return self.asked or (STOP_AT if at is not None and self.training.done >= at else None)

    def agree(self) -> None:
        """Have a request to stop of one rank be one of all; every rank asks at the same point."""
        if self.mesh.alone or not self.mesh.any(self.stop.requested is not None):
            return
        said = self.mesh.gather_bytes((self.stop.requested or "").encode())
        self._agreed = self.mesh.broadcast_bytes(next((x for x in said if x), b"")).decode()

    def iterate(self) -> dict[str, Any] | None:
        """One iteration, or as if it had never begun.

        Returns:
            What was seen; None if a signal asked to stop and the iteration did not end in time: it is done again when
            the run goes on.

        Raises:
            UserError: it failed. The weights, the optimiser and the generators are as before it, and in a checkpoint
                (unless `lost`); an update that failed is kept to be replayed.
        """
        self._require_place()
        training, done = self.training, self.training.done
        try:
            values = training.iterate()
        except Interrupted:
            self._rewind()
            return None
        except LostRankError:
            raise  # nothing can be saved without it
        except UserError as error:
            if not self.mesh.alone and not self.mesh.all_failed(error):
                raise
            self._rewind()
            self.agree()
            if self.asked is not None:
                return None  # schedulers send their signal to the environments' processes too
            if done:
                self.save()
            raise
        except InvariantError as error:
            self.recorder.failure(done, error)
            self._rewind()
            self.save()
            undone = f"the update was undone: what was right before it is in checkpoints/{step_name(done)}"
            kept = "the run resumes from its last checkpoint, or starts over" if self.lost else undone
            raise UserError(
                f"{error} (after {done:,} steps of {self.folder.path}; {kept}{self._keep_update()})"
            ) from error
        self._stay()  # what this iteration has seen is recorded first
        if training.ring is not None and (news := training.ring.news()):
            self.recorder.progress.message(news)
        return values

    def _stay(self) -> None:
        """Go back to the working directory from where code of the user's has gone."""
        self._moved = self._moved or self.folder.go_back()

    def _require_place(self) -> None:
        """Refuse what has changed the working directory; only rank 0 writes there."""
        self._stay()
        if not self._moved or not self.mesh.first:
            return
        error = UserError(self._moved)
        if self.mesh.alone:
            self.save()
        else:
            self.mesh.leave_words(error)
        raise error

    def record(self, values: dict[str, Any], own: Sequence[str] = ()) -> tuple[dict[str, Any], str | None]:
        """Call the callbacks with an iteration's metrics, and record these.

        Args:
            values: by name.
            own: names of these that are shown on the console too, as those are that callbacks add.

        Returns:
            The row that was written; and the name of the callback that ends the training, or None.
        """
        step = self.training.done
        measured, values = values, {"step": step, **values}
        ended, added = None, list[str]()
        try:
            with self.mesh.led() if self._called else nullcontext(), self.calling():
                if self.mesh.first:
                    ended, added = self.callbacks.iteration(self.trainer, values)
        except LostRankError:
            raise
        except Exception:
            self._stay()
            self.recorder.iteration(step, measured, own)
            self.save()  # what was learnt outlives an error in the user's own code
            raise
        self._stay()
        if self._called:
            told = json.dumps([ended, added, {name: values[name] for name in added}]).encode()
            ended, added, numbers = json.loads(self.mesh.broadcast_bytes(told))
            values |= numbers
        del values["step"]
        with self.mesh.together():
            row = self.recorder.iteration(step, values, [*own, *added])
        if not self.mesh.alone:  # a loop that decides by a clock, or by the verdict on it, has to do so on all ranks
            row = self.mesh.gather_json(row if self.mesh.first else None)[0]
        return row, ended

    @contextmanager
    def calling(self) -> Iterator[None]:
        """Within, callbacks are called, by rank 0 alone."""
        self.mesh.apart_now = not self.mesh.alone
        try:
            yield
        finally:
            self.mesh.apart_now = False

    def given(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Give a row to the loop that iterates; one that is left there is saved, on all ranks.

        Whether an error has left it on this rank can not be known here: a generator is closed before anybody is told.

        Raises:
            UserError: other ranks have left the loop, and this one has not.
        """
        try:
            with nullcontext() if self._streams is None else self._streams.aside():
                yield row
        except GeneratorExit:
            if self.mesh.alone or self.mesh.of_which(True):
                self.save()
            raise
        if not self.mesh.alone and (gone := self.mesh.of_which(False)):
            self.save()  # all ranks are here, those too that have left
            raise UserError(
                f"rank {' and '.join(map(str, gone))} of {self.mesh.size} left the loop over its trainer at "
                f"{self.training.done:,} steps, and this rank did not: where no error of its own is shown above, leave "
                "the loop at the same row on all ranks; all is saved, and the same command resumes"
            )

    def due(self, before: int) -> bool:
        """True if the steps since `before` passed a point at which a checkpoint is due."""
        every = self.training.config.checkpoint_every
        return self.training.done // every > before // every

    def save(self) -> None:
        """Write a numbered checkpoint of everything and the last updates; none of weights that a broken-off update has
        moved.

        Raises:
            UserError: it can not be written; or one of several ranks asks for it alone.
        """
        if self.mesh.apart_now:
            raise UserError(
                f"trainer.save() in a callback: {self.mesh.size} ranks save together, and callbacks are called by rank "
                "0 alone; set checkpoint_every, or iterate the trainer on every rank and save in that loop"
            )
        if self.lost:
            return
        self.folder.go_back()
        tensors, state = self.training.state()
        name = step_name(self.training.done)
        tensors, state = with_others(self.mesh, tensors, state, self.training.own)
        own_parts = self.training.parts()
        with written_apart(self.mesh, own_parts, self.folder.checkpoints, name) as parts, self.mesh.led():
            if not self.mesh.first:
                return
            if own := self.callbacks.state():
                state = {**state, "callbacks": own}
            keep = self.training.config.keep
            save_checkpoint(self.folder.checkpoints, name, tensors, state, keep=keep, parts=parts)
            if self.training.ring is not None:
                self.training.ring.write(self.folder.replay)
            with self.calling():
                self.callbacks.checkpoint(self.trainer, self.folder.checkpoints / name)

    def _rewind(self) -> None:
        self.lost = not self.training.rewind()

    def _keep_update(self) -> str:
        """Save the update that failed for `proximo replay`; a half-sentence that says so, or ""."""
        ring = self.training.ring
        if ring is None or not self.mesh.alone or not ring.write_failed(self.folder.replay):
            return ""
        return f"; `proximo replay {quote(str(self.folder.path))}` repeats it and names what was not finite first"


def resume(
    training: Trained,
    folder: RunFolder,
    metrics: MetricsWriter,
    callbacks: Callbacks | None = None,
    mesh: Mesh = ALONE,
) -> bool:
    """Resume from the last whole checkpoint; what was written after it goes.

    Args:
        training: what goes on.
        folder: open, on rank 0.
        metrics: of the folder.
        callbacks: the user's.
        mesh: the ranks that train; where another number of them has trained before, each begins anew with its own part.

    Returns:
        False when the run ended before its first one.

    Raises:
        UserError: it does not fit this training.
    """

    def latest() -> str | None:
        found = latest_checkpoint(folder.checkpoints, warn=lambda text: say(f"proximo: {text}"), set_aside=True)
        return None if found is None else str(found)

    path = mesh.of_the_first(latest)
    if path is None:
        metrics.truncate_after(-1)
        return False
    state = load_into(training, Path(path), mesh)
    if callbacks is not None:
        callbacks.load(state.get("callbacks", {}))
    metrics.truncate_after(training.done)
    return True


def load_into(training: Trained, path: Path, mesh: Mesh = ALONE) -> dict[str, Any]:
    """Load a checkpoint, which rank 0 reads; returns what it holds beside tensors.

    Raises:
        UserError: it is damaged, or does not fit this training.
    """
    (tensors, state), as_many = of_this_rank(mesh, lambda: load_checkpoint(path), training.own)
    training.reshared = not as_many
    try:
        training.load(tensors, state)
        read_apart(mesh, training.parts(), path)
        if not as_many:
            training.reshare()
    except MALFORMED as error:  # a file of other settings, another version or another origin
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).partition("\n")[0]
        raise UserError(
            f"{path} does not fit this run ({reason}): put back the settings that it was made with, or start a new run"
        ) from error
    return state
