"""Gymnasium's AsyncVectorEnv, watched: a child that raises, dies or hangs is named."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode

from proximo.control.environments.backends.reporting import FAILURE, shown
from proximo.control.spaces.trees import take_row
from proximo.errors import UserError
from proximo.runs.console.streams import outlive_readers

_GRACE = 5.0
"""Seconds in which a child may close its environment before it is killed."""


class WatchedSubprocesses:
    """One process per environment, with same-step autoreset; `reset` and `step` are those of a Gymnasium VectorEnv.

    Args:
        factories: What makes each environment, called in its own process (the first one also in this, for the spaces).
        name: What the user calls the task.
        timeout: Seconds that one call may take.

    Raises:
        UserError: When a child raises, dies or does not answer in time; all children are then ended.
    """

    def __init__(self, factories: Sequence[Callable[[], gymnasium.Env]], name: str, timeout: float) -> None:
        self._name, self._timeout = name, timeout
        self._actions: Any = None
        self._steps = 0
        try:
            deaf = [_deaf_to_ctrl_c(factory) for factory in factories]
            with _garbage_left_alone():
                self._vector = AsyncVectorEnv(deaf, autoreset_mode=AutoresetMode.SAME_STEP, daemon=True)
        except (EOFError, ConnectionError) as error:
            raise UserError(
                f"an environment of {name} could not be made in a subprocess: its traceback stands above; try backend "
                "'gymnasium' to see it in this process"
            ) from error
        self.metadata, self.num_envs = self._vector.metadata, self._vector.num_envs
        self.single_observation_space = self._vector.single_observation_space
        self.single_action_space = self._vector.single_action_space

    def reset(self, *, seed: list[int | None] | None = None) -> tuple[Any, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.reset`."""
        self._actions = None
        self._steps = 0
        try:
            self._vector.reset_async(seed=seed)
            self._await_all()
            result = self._vector.reset_wait()
        except (EOFError, ConnectionError) as error:
            raise self._died() from error
        self._raise_failure(result[-1])
        return result

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """See `gymnasium.vector.VectorEnv.step`."""
        self._actions = actions
        self._steps += 1
        try:
            self._vector.step_async(actions)
            self._await_all()
            result = self._vector.step_wait()
        except (EOFError, ConnectionError) as error:
            raise self._died() from error
        self._raise_failure(result[-1])
        return result

    def call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """A method of every environment; what each of them returned.

        Raises:
            UserError: A child dies or does not answer in time.
        """
        try:
            self._vector.call_async(name, *arguments)
            self._await_all()
            return self._vector.call_wait()
        except (EOFError, ConnectionError) as error:
            raise self._died() from error

    def close(self) -> None:
        """Ends the children, politely at first."""
        if self._vector.closed:
            return
        # AsyncVectorEnv.close would wait for ever for a child that hangs in its own close.
        with contextlib.suppress(ConnectionError):  # one has died since its last answer
            for pipe in filter(None, self._vector.parent_pipes):  # none where a child has failed
                pipe.send(("close", None))
        deadline = time.monotonic() + _GRACE
        for process in self._vector.processes:
            process.join(max(deadline - time.monotonic(), 0.0))
        self._end()

    def _await_all(self) -> None:
        # AsyncVectorEnv can wait with a limit, but does not say who was late.
        deadline = time.monotonic() + self._timeout
        for index, pipe in enumerate(self._vector.parent_pipes):
            if not pipe.poll(max(deadline - time.monotonic(), 0.0)):
                self._end()
                raise UserError(
                    f"environment {index} of {self._name} did not answer within {self._timeout:g} s "
                    f"{self._when(index)}: mend what it waits for, or raise environment_timeout"
                )

    def _died(self) -> UserError:
        processes = self._vector.processes
        dead = wait([process.sentinel for process in processes], timeout=1.0)
        index = next((i for i, process in enumerate(processes) if process.sentinel in dead), None)
        if index is None:
            self._end()
            return UserError(f"a process of {self._name} closed its connection: run it again with backend 'gymnasium'")
        processes[index].join()  # its exit code may come a moment after its end
        exit_code = processes[index].exitcode
        self._end()
        return UserError(
            f"the process of environment {index} of {self._name} {_ending(exit_code)} {self._when(index)}: "
            "look for its last words above, and at the memory it needs"
        )

    def _when(self, index: int) -> str:
        if self._actions is None:
            return "in a reset"
        return f"in step {self._steps} (last action {shown(take_row(self._actions, index))})"

    def _raise_failure(self, infos: dict[str, Any]) -> None:
        if FAILURE in infos:
            self._end()
            raise UserError(next(text for text in infos[FAILURE] if text is not None))

    def _end(self) -> None:
        # AsyncVectorEnv.close would wait for the answer that never comes.
        for process in self._vector.processes:
            process.kill()
        for process in self._vector.processes:
            process.join()
        for pipe in filter(None, self._vector.parent_pipes):
            pipe.close()
        self._vector.closed = True


@contextlib.contextmanager
def _garbage_left_alone() -> Iterator[None]:
    """Children that are forked here never collect what this process has dropped.

    An EnvPool among it would wait for threads that are not in the child, and crash it. The child sets it aside: to
    collect it here takes up to a second in a process that has imported much. Nothing is collected in between.
    """
    _collecting.append(gc.isenabled())
    gc.disable()
    try:
        yield
    finally:
        if _collecting.pop():
            gc.enable()


def _set_garbage_aside() -> None:
    if _collecting:
        gc.freeze()
        if _collecting[0]:
            gc.enable()


_collecting: list[bool] = []
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_set_garbage_aside)


def _deaf_to_ctrl_c(factory: Callable[[], gymnasium.Env]) -> Callable[[], gymnasium.Env]:
    """A terminal sends Ctrl-C to children too, and it is the parent's to answer: it needs them to end its step."""
    home = os.getpid()

    def made() -> gymnasium.Env:
        if os.getpid() != home:  # the first one is also made in the parent
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            outlive_readers()  # what the environment prints there
        return factory()

    return made


def _ending(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"exited with code {exit_code}"
