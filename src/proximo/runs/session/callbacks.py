"""Callbacks: the user's own code, called while a run trains."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from proximo.errors import FOREIGN, UserError


class Callback:
    """Called while a run trains: subclass it and override what you need. A plain function is an `iteration`.

    `trainer` is the one that is iterated, `proximo.Trainer` or `proximo.language.Trainer`: `trainer.policy`,
    `trainer.step`, `trainer.folder`, `trainer.stop()`.
    """

    def start(self, trainer: Any) -> None:
        """Called before the first iteration, in a resumed run too."""

    def iteration(self, trainer: Any, metrics: dict[str, Any]) -> bool | None:
        """Called after each iteration, before it is recorded.

        Args:
            trainer: as above.
            metrics: of the iteration, by name; numbers that you add are recorded and shown with them.

        Returns:
            False ends the training here, as if its last step were done; anything else goes on.
        """

    def checkpoint(self, trainer: Any, path: Path) -> None:
        """Called after a checkpoint was written to `path`."""

    def finish(self, trainer: Any, results: Mapping[str, Any]) -> None:
        """Called once, with what a training came to that has ended."""

    def close(self) -> None:
        """Called when this call ends after `start`, however it ends: free here what was opened there."""

    def state(self) -> dict[str, Any]:
        """State that a resumed run needs of this callback, as JSON."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""


Given = Callback | Callable[[Any, dict[str, Any]], bool | None]
"""Objects that are taken as callbacks."""


class _Function(Callback):
    """A function of trainer and metrics as a callback."""

    def __init__(self, function: Callable[[Any, dict[str, Any]], bool | None]) -> None:
        self.function = function

    def iteration(self, trainer: Any, metrics: dict[str, Any]) -> bool | None:
        return self.function(trainer, metrics)


class Callbacks:
    """All callbacks of a run, in the order given.

    Args:
        given: callbacks, or functions of trainer and metrics; or one.

    Raises:
        UserError: one is neither.
    """

    def __init__(self, given: Sequence[Given] | Given = ()) -> None:
        given = (given,) if isinstance(given, Callback) or callable(given) else given
        if not isinstance(given, Sequence):
            raise UserError(f"callbacks is a {type(given).__name__}: give a list, as in callbacks=[watch]")
        self.names = [f"{i} {_name(callback)}" for i, callback in enumerate(given)]
        self._all = [_as_callback(callback) for callback in given]
        self._started: list[Callback] = []

    def put_first(self, name: str, callback: Callback) -> None:
        """Have a callback of the library's own called before the others; one of that name is replaced."""
        name = f"own {name}"
        if name in self.names:
            del self._all[self.names.index(name)]
            self.names.remove(name)
        self.names.insert(0, name)
        self._all.insert(0, callback)

    def start(self, trainer: Any) -> None:
        """See `Callback.start`."""
        for callback in self._all:
            self._started.append(callback)
            callback.start(trainer)

    def iteration(self, trainer: Any, metrics: dict[str, Any]) -> tuple[str | None, list[str]]:
        """See `Callback.iteration`: all are called, also when one ends the run.

        Returns:
            The name of the callback that ends the training, or None; and the names of the numbers that were added.

        Raises:
            UserError: a callback added what is no number.
        """
        ended, known = None, set(metrics)
        for name, callback in zip(self.names, self._all, strict=True):
            before = set(metrics)
            answer = callback.iteration(trainer, metrics)
            for key in sorted(set(metrics) - before):
                metrics[key] = _number(name, key, metrics[key])
            # Only a boolean decides: a function may return anything else by accident.
            if isinstance(answer, bool | np.bool_) and not answer:
                ended = ended or name.partition(" ")[2]
        return ended, sorted(set(metrics) - known)

    def checkpoint(self, trainer: Any, path: Path) -> None:
        """See `Callback.checkpoint`."""
        for callback in self._all:
            callback.checkpoint(trainer, path)

    def finish(self, trainer: Any, results: Mapping[str, Any]) -> None:
        """See `Callback.finish`."""
        for callback in self._all:
            callback.finish(trainer, results)

    def close(self) -> None:
        """See `Callback.close`: those that were started, each whatever another one does."""
        for callback in self._started:
            try:
                callback.close()
            except FOREIGN as error:  # what was trained must not be lost to it
                text = f"callback {_name(callback)} could not be closed: {type(error).__name__}: {error}"
                warnings.warn(text, stacklevel=2)
        self._started = []

    def state(self) -> dict[str, Any]:
        """The states of all callbacks that have one, by name.

        Raises:
            UserError: a state is not what JSON holds.
        """
        states = {name: callback.state() for name, callback in zip(self.names, self._all, strict=True)}
        for name, state in states.items():
            try:
                if json.loads(json.dumps(state, allow_nan=False)) == state:
                    continue
                reason = "it comes back changed: use lists for tuples, and text for the keys of dicts"
            except (TypeError, ValueError) as error:
                reason = str(error)
            raise UserError(f"the state of callback {name.partition(' ')[2]} can not be stored as JSON: {reason}")
        return {name: state for name, state in states.items() if state}

    def load(self, states: Mapping[str, Any]) -> None:
        """Give each callback its state; one that was not there before starts afresh."""
        for name, callback in zip(self.names, self._all, strict=True):
            if name in states:
                callback.load(states[name])


def _as_callback(given: Any) -> Callback:
    if isinstance(given, Callback):
        if callable(given):
            raise UserError(f"callback {_name(given)} has a __call__, which nothing calls: name it iteration")
        return given
    if isinstance(given, type):
        raise UserError(f"callback {given.__name__} is a class: give an instance, as in callbacks=[{given.__name__}()]")
    if not callable(given):
        raise UserError(
            f"a callback is a function of trainer and metrics or a proximo.Callback, and not a {type(given).__name__}"
        )
    return _Function(given)


def _name(given: Any) -> str:
    return str(getattr(given, "__qualname__", type(given).__qualname__)).replace("<locals>.", "")


def _number(callback: str, key: str, value: Any) -> float | int | bool | None:
    if getattr(value, "shape", None) == ():  # a scalar of NumPy or torch
        value = value.item()
    if value is None or isinstance(value, bool | int | float):
        return value
    raise UserError(
        f"callback {callback.partition(' ')[2]} put a {type(value).__name__} into metrics[{key!r}]: a metric is a "
        "number"
    )
