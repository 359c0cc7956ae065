"""Many jobs of one process each on a Ray cluster, which places them, and what they and their launcher say."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, redirect_stdout
from pathlib import Path
from typing import Any

from proximo.scale.launch import asked, joined, kept_here, stand_in

Next = Callable[[], tuple[str, Any] | None]
"""Gives a job's name, of its own, and what it is to do; None where there is none for now."""


def run_jobs(
    work: Callable[[Any, "Say"], Any],
    following: Next,
    heard: Callable[[str, Any], Any],
    ended: Callable[[str, Any, str], None],
    around: AbstractContextManager[object],
    *,
    restarts: int = 0,
    gpus: bool = False,
) -> None:
    """Do jobs on a Ray cluster, as many at once as it has CPUs or GPUs for, until there are no more.

    The cluster is that of RAY_ADDRESS; without it, one is started on this machine for as long as the jobs take.

    Args:
        work: function of a module, called on a worker with what the job is to do, and with a way to talk to the
            launcher.
        following: the next job; asked wherever there is room.
        heard: called here with a job's name and what it has said; what it returns is the answer to what the job says
            next, where it is not None.
        ended: called here with a job's name, what `work` has returned, and "" or one sentence on how it was lost.
        around: entered once the cluster is joined, and left before it is: Ray hears signals, unless it comes after.
        restarts: how often a job is started anew whose worker was lost.
        gpus: a job takes a GPU where the cluster has any.

    Raises:
        UserError: Ray is not installed or not there.
    """
    # What is printed meanwhile is Ray's and the jobs': standard output belongs to what they come to.
    with redirect_stdout(sys.stderr), joined(1) as ray, around:
        gpus = gpus and ray.cluster_resources().get("GPU", 0) >= 1
        wall = kept_here(ray, _Wall)
        place, running = str(Path.cwd()), dict[Any, str]()
        one = ray.remote(num_cpus=1, num_gpus=int(gpus), max_retries=restarts)(_job)
        try:
            while True:
                room = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0)) or 1
                while len(running) < room and (job := following()) is not None:
                    name, told = job
                    running[one.options(name=name).remote(work, name, told, wall, place)] = name
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=0.2)
                for name, word in ray.get(wall.read.remote()):
                    if (answer := heard(name, word)) is not None:
                        wall.answer.remote(name, answer)
                for each in done:
                    ended(running.pop(each), *_what_came(ray, each))
        finally:
            for each in running:  # left in the midst: whom nobody hears any more must not go on
                ray.cancel(each, force=True)


def _what_came(ray: Any, job: Any) -> tuple[Any, str]:
    """What a job has returned, or None and how it was lost."""
    try:
        return ray.get(job), ""
    except ray.exceptions.RayTaskError as error:
        return None, f"{type(error.cause).__name__}: {error.cause}"
    except ray.exceptions.RayError:
        return None, "its worker was lost; the same command goes on, and --restarts N does so by itself"


class _Wall:
    """Where jobs write what their launcher reads, and read what it has answered."""

    def __init__(self) -> None:
        self._words: list[tuple[str, Any]] = []
        self._answers: dict[str, Any] = {}
        self._begun: dict[str, int] = {}

    def begin(self, name: str) -> int:
        self._begun[name] = self._begun.get(name, 0) + 1
        return self._begun[name]

    def say(self, name: str, word: Any) -> Any:
        self._words.append((name, word))
        return self._answers.get(name)

    def read(self) -> list[tuple[str, Any]]:
        words, self._words = self._words, []
        return words

    def answer(self, name: str, answer: Any) -> None:
        self._answers[name] = answer


class Say:
    """How a job talks to its launcher."""

    def __init__(self, name: str, wall: Any) -> None:
        self._name, self._wall = name, wall
        self.begun: int = asked(wall.begin.remote(name))
        """How often the job was started, this time included."""
        self._asked_at = time.monotonic()

    def __call__(self, word: Any) -> Any:
        """Say a word that JSON could hold; the launcher's last answer, None where it has given none."""
        return asked(self._wall.say.remote(self._name, word))

    def answered(self) -> Any:
        """The launcher's last answer; it is asked once in a second, and in between this is None."""
        if time.monotonic() - self._asked_at < 1:
            return None
        self._asked_at = time.monotonic()
        return self(None)


def _job(work: Callable[[Any, Say], Any], name: str, told: Any, wall: Any, place: str) -> Any:
    """What the worker of a job does."""
    stand_in(place)
    return work(told, Say(name, wall))
