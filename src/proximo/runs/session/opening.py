"""How one call begins: a new run, the same one again, or one in another's place."""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proximo.errors import UserError, require_whole
from proximo.runs.config.toml import difference, from_mapping, read_toml, to_toml
from proximo.runs.storage.code_identity import note_code, other_code
from proximo.runs.storage.files import parse_json, write_atomically
from proximo.runs.storage.folder import RunFolder
from proximo.scale.launched import restarted, unsure

# On the command line, and from Python.
_FRESH = "--fresh (fresh=True)"
_ALLOWED = "--allow-change (allow_change=True)"
_ELSEWHERE = "another folder with --run (run=...)"


@dataclass(frozen=True)
class Call:
    """Options of one call. They are no part of the run, so `config.toml` does not hold them."""

    stop_at: int | None = None
    """Steps (responses of a language model) after which to stop with a checkpoint; schedules stay those of the run."""
    fresh: bool = False
    """Start over: the run that is in the folder is deleted."""
    allow_change: bool = False
    """Resume with settings that differ from the run's; they are then recorded in its `config.toml`."""

    def __post_init__(self) -> None:
        """Refuse what can not mean anything.

        Raises:
            UserError: `stop_at` is no number of steps, or what is true or false is given as something else.
        """
        if self.stop_at is not None:
            require_whole("stop_at", self.stop_at, 0)
        for name in ("fresh", "allow_change"):
            value = vars(self)[name]
            if not isinstance(value, bool):
                raise UserError(f"{name} = {value!r} must be True or False")


class Opening:
    """Compares a folder with what is asked for; nothing is written before `open`.

    Args:
        folder: of the run; it need not exist yet.
        config: what is asked for, an instance of the run's dataclass.
        subject: name of the setting that the run is about.
        call: how this call begins.
        resolved: gives settings that mean the same one spelling; only the comparison is of these.
        final: a finished run keeps nothing to resume from, so that its settings can not change any more.

    Raises:
        UserError: another run is there.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Any,
        subject: str,
        call: Call,
        *,
        resolved: Callable[[Any], Any] = lambda config: config,
        final: bool = False,
    ) -> None:
        self.folder, self.config, self.call = folder, config, call
        self._resolved, self._final = resolved, final
        if folder.exists and call.fresh:
            _keep_sources(folder.path, config)
            _require_first_start(folder.path)
        self.resumed = folder.exists and not call.fresh
        self.changes = self._changes(subject) if self.resumed else []
        self._code: Mapping[str, str] = {}
        self._changed_code: list[str] = []

    @property
    def results(self) -> dict[str, Any] | None:
        """Results of the run, if it is finished and nothing is changed.

        Raises:
            UserError: the file can not be read.
        """
        return None if self.changes or not self.resumed else read_results(self.folder.results)

    def check_code(self, code: Mapping[str, str]) -> None:
        """Refuses a run that was made with other code of the user's own, and remembers the code to record.

        A half-done one resumes with the new code under `allow_change`; what it has learnt by then stays.

        Args:
            code: see `identity`.

        Raises:
            UserError: names what was changed, and the ways on.
        """
        self._code = code
        other = other_code(self.folder, code) if self.resumed else []
        done = self.folder.results.exists()
        if other and (done or not self.call.allow_change):
            what = " and ".join(other)
            ways = f"start over with {_FRESH}, or choose {_ELSEWHERE}"
            if done:
                raise UserError(
                    f"{self.folder.path} holds a finished run of another {what}: its code, or what it holds, was "
                    f"changed since, so its results are not those of this one; {ways}"
                )
            raise UserError(
                f"{self.folder.path} holds a run of another {what}: its code, or what it holds, was changed since; "
                f"resume with the new code by {_ALLOWED}, {ways}"
            )
        self._changed_code = other

    def open(self) -> RunFolder:
        """The folder, locked."""
        if self.resumed:
            folder = self.folder.open()
            if self._changed_code:
                note_code(folder, self._code)
                self.note(f"the code of {' and '.join(self._changed_code)} was changed")
            return folder
        new = self.folder.replace if self.folder.exists else self.folder.create
        folder = new(to_toml(self.config))
        note_code(folder, self._code)
        return folder

    def settle(self, at: str) -> str | None:
        """Record the changed settings, once the run has resumed with them.

        Args:
            at: how far the run is, for the record.

        Returns:
            A sentence that shows them; None if there are none.
        """
        if not self.changes:
            return None
        shown = ", ".join(f"{key} {old!r} -> {new!r}" for key, old, new in self.changes)
        self.note(f"changed at {at}: {shown}")
        self.folder.results.unlink(missing_ok=True)
        return f"changed from here on: {shown}"

    def note(self, text: str) -> None:
        """Write a line about what happened to the run above its settings in `config.toml`."""
        there = self.folder.config.read_text("utf-8").splitlines()
        history = "".join(line + "\n" for line in [*(x for x in there if x.startswith("#")), f"# {text}"])
        write_atomically(self.folder.config, f"{history}{to_toml(self.config)}".encode())

    def _changes(self, subject: str) -> list[tuple[str, Any, Any]]:
        file, path = self.folder.config, self.folder.path
        there = from_mapping(type(self.config), read_toml(file), where=str(file))
        there, here = self._resolved(there), self._resolved(self.config)
        old, new = getattr(there, subject), getattr(here, subject)
        if old != new:  # then nothing else is worth saying
            raise UserError(f"{path} holds a run of {old}, not of {new}; choose {_ELSEWHERE}")
        # Where the folder is may differ.
        changes = [change for change in difference(there, here) if change[0] not in ("run", "output")]
        done = self._final and self.folder.results.exists()
        if changes and (done or not self.call.allow_change):
            listed = ", ".join(f"{key} is {old!r} there and {new!r} here" for key, old, new in changes)
            other = "" if done else f", resume with these by {_ALLOWED}"
            finished = ", which is finished" if done else ""
            raise UserError(
                f"{path} holds another run{finished}: {listed}; choose {_ELSEWHERE}, give the same "
                f"settings{other}, or start over with {_FRESH}"
            )
        return changes


_WRITTEN = ("run", "output", "preset")
"""Settings that name what a run writes, or where it came from; a preset was read before."""


def _keep_sources(folder: Path, config: Any) -> None:
    """Refuse to delete a run in whose place another one begins that reads it.

    Raises:
        UserError: a setting names the folder, or something in it.
    """
    for key, text in _texts(tomllib.loads(to_toml(config))):
        for name in {text, text.rpartition("=")[0]} - {""}:  # a reward may have a weight behind it
            with suppress(OSError, ValueError):  # no path at all
                there = Path(name).resolve()
                if key not in _WRITTEN and there.is_relative_to(folder.resolve()) and there.exists():
                    raise UserError(
                        f"{key} = {text} is read by this run, and {_FRESH} would delete it with {folder}: choose "
                        f"{_ELSEWHERE}"
                    )


def _require_first_start(folder: Path) -> None:
    """Refuse to delete what the same command has trained, before a rank was lost and all were started anew.

    Raises:
        UserError: it may have.
    """
    if restarted():
        raise UserError(
            f"{_FRESH} would delete {folder} again, with what was trained before a rank was lost: give the same "
            "command without it, and it goes on"
        )
    if unsure():
        raise UserError(
            f"{_FRESH} would delete {folder} again each time that ranks are started anew (--max-restarts), with what "
            "they have trained: delete the folder first, or leave --max-restarts away"
        )


def _texts(table: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts among settings, with their dotted names."""
    if isinstance(table, str):
        yield key, table
    elif isinstance(table, dict):
        for name, value in table.items():
            yield from _texts(value, f"{key}.{name}".lstrip("."))
    elif isinstance(table, list):
        for value in table:
            yield from _texts(value, key)


def free_folder(folder: RunFolder, code: Mapping[str, str]) -> tuple[RunFolder, str]:
    """The folder for a run of this code: the next that is free or its own, if one of other code is finished there.

    Args:
        folder: that was asked for.
        code: see `identity`.

    Returns:
        The folder, and a sentence about the one that is passed over; "" if none is.
    """
    found, number = folder, 1
    while found.exists and found.results.exists() and other_code(found, code):
        number += 1
        found = RunFolder(f"{folder.path}-{number}")
    if found is folder:
        return folder, ""
    what = " and ".join(other_code(folder, code)) or "code"
    return found, (
        f"{folder.path} holds a finished run of another {what}, whose code, or what it holds, was changed since: this "
        f"one is in {found.path}"
    )


def read_results(file: Path) -> dict[str, Any] | None:
    """Results of a finished run; None while it has not finished.

    Raises:
        UserError: the file can not be read.
    """
    if not file.exists():
        return None
    try:
        return dict(parse_json(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} can not be read ({error}); delete it and run the same command again") from error
