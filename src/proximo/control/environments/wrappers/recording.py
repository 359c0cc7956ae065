"""The task's own rewards, below whatever wrappers make of them, without a wrapper of ours among the user's."""

from __future__ import annotations

import functools
import inspect
import threading
import uuid
import weakref
from collections.abc import Callable, MutableMapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorWrapper
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

from proximo.runs.storage.code_walk import STANDS_FOR

_PASS_ON = (OrderEnforcing, PassiveEnvChecker, TimeLimit)
"""What `gymnasium.make` puts around every task: none of them touches a reward."""
_RECORDERS = "_proximo_recorders"
"""The attribute of a class's `step` that holds who records which instance."""
_LOCK = threading.Lock()


class RewardRecorder:
    """Adds up what the innermost environment pays, also over several of its steps (frame skip).

    A wrapper may read, set, copy and compare the environment inside it. So nothing is put between the two, and the
    environment stays as it is: its class notes the rewards of the instances that are recorded, until the last of them
    is let go.

    Args:
        env: The environment as it was given. Nothing is recorded where no wrapper could change a reward.
    """

    def __init__(self, env: Any) -> None:
        self._env, self._task = env, None
        self._total: np.ndarray | None = None
        self._within = self.recording = False
        self._let_go: Callable[[], Any] = lambda: None
        self.follow()

    def follow(self) -> None:
        """Look for the innermost environment again: a wrapper may make a new one in its reset."""
        task = _task_below(self._env)
        if task is self._task:
            return
        self._let_go()
        self._task, self.recording = task, False
        if task is not None and (recorders := _recorders_of(type(task))) is not None:
            self.recording = True
            recorders[id(task)] = self
            self._let_go = weakref.finalize(self, _let_go, type(task), recorders, id(task))

    def call(self, step: Callable[[], Any]) -> Any:
        """A step of the innermost environment; one that it takes within another belongs to that one's reward."""
        if self._within:
            return step()
        self._within = True
        try:
            result = step()
        finally:
            self._within = False
        try:
            paid = np.asarray(result[1], np.float64)
            self._total = paid if self._total is None else self._total + paid
        except (TypeError, ValueError, LookupError):  # no number yet: a wrapper above makes one of it
            self._total = np.asarray(np.nan)
        return result

    def take(self, given: np.ndarray | float) -> Any:
        """What was paid since the last call.

        Args:
            given: What the outermost environment paid; returned where nothing was recorded that it could stand for.
        """
        total, self._total = self._total, None
        if total is None or total.size != np.size(given) or not np.isfinite(total).all():
            return given
        return total.reshape(np.shape(given))

    def close(self) -> None:
        """Record no more."""
        self._let_go()


def _task_below(env: Any) -> Any:
    """The innermost environment; None where no wrapper around it could change a reward."""
    touched = False
    while isinstance(env, gymnasium.Wrapper | VectorWrapper):
        touched = touched or type(env) not in _PASS_ON
        env = env.env
    return env if touched else None


class _Recorders(weakref.WeakValueDictionary[int, "RewardRecorder"]):
    """By the id of an instance.

    A class that is pickled by what it consists of, as one of a script, takes these along: unpickled in the same process
    it is the same class and goes on recording, and in another one it records nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.name = uuid.uuid4().hex
        _LIVING[self.name] = self

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return _living, (self.name,)


_LIVING: weakref.WeakValueDictionary[str, _Recorders] = weakref.WeakValueDictionary()


def _living(name: str) -> MutableMapping[int, RewardRecorder]:
    return _LIVING.get(name, {})


def _recorders_of(kind: type) -> MutableMapping[int, RewardRecorder] | None:
    """Who records which instance of a class, by the instance's id; None where the class can not be changed."""
    with _LOCK:
        known: MutableMapping[int, RewardRecorder] | None = getattr(vars(kind).get("step"), _RECORDERS, None)
        if known is not None:
            return known
        recorders: MutableMapping[int, RewardRecorder] = _Recorders()
        own = vars(kind).get("step")
        step = inspect.getattr_static(kind, "step", None)
        if not hasattr(step, "__get__"):
            return None

        @functools.wraps(step)
        def recorded(self: Any, *arguments: Any, **named: Any) -> Any:
            # Asked anew where it is inherited, as Python would.
            inner = super(kind, self).step if own is None else own.__get__(self, type(self))  # type: ignore[arg-type]
            recorder = recorders.get(id(self))
            if recorder is None:
                return inner(*arguments, **named)
            return recorder.call(lambda: inner(*arguments, **named))

        setattr(recorded, _RECORDERS, recorders)
        setattr(recorded, STANDS_FOR, own)
        try:
            kind.step = recorded  # type: ignore[attr-defined]
        except (TypeError, AttributeError):  # written in C
            return None
        return recorders


def _let_go(kind: type, recorders: MutableMapping[int, RewardRecorder], instance: int) -> None:
    """Record an instance no more; with the last one the class is again as it was written."""
    with _LOCK:
        recorders.pop(instance, None)
        step: Any = vars(kind).get("step")
        if recorders or getattr(step, _RECORDERS, None) is not recorders:
            return
        own = getattr(step, STANDS_FOR)
        if own is None:
            del kind.step  # type: ignore[attr-defined]
        else:
            kind.step = own  # type: ignore[attr-defined]
