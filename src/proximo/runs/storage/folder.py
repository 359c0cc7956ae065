"""The folder of a run: what lies where, who may write, and a creation that is whole or not at all."""

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Self

from proximo.errors import UserError
from proximo.runs.storage.code_version import describe_code
from proximo.runs.storage.files import user_error, write_atomically
from proximo.runs.storage.lock import Lock


class RunFolder:
    """The folder of one run.

    `config.toml` is written last: a folder that has it is a whole run, a folder that has only some of the other names
    is what a kill left of a creation, and `create` starts it over.

    Args:
        path: Run folder; need not exist yet.
    """

    def __init__(self, path: Path | str) -> None:
        self._lie_at(Path(path))
        self._began_in = None if self.path.is_absolute() else _here()
        self._lock: Lock | None = None
        self._made: list[Path] = []
        self._found: set[str] | None = None
        """Names that were there when `create` began; None where it has not made the run."""

    def _lie_at(self, path: Path) -> None:
        self.path = path
        self.config = self.path / "config.toml"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.replay = self.path / "replay"
        self.tensorboard = self.path / "tensorboard"
        self.code = self.path / "code"
        self.results = self.path / "results.json"
        self.made_from = self.path / "made_from.json"
        self._lock_file = self.path / "lock"

    @property
    def exists(self) -> bool:
        """True if a whole run is there, which `open` continues.

        Raises:
            UserError: It can not be looked for, as under a name that is too long.
        """
        try:
            return self.config.is_file()
        except OSError as error:
            raise user_error(error, self.path, "looking for") from error

    def create(self, config_toml: str) -> Self:
        """Makes the folder, locks it and writes the configuration and the code's version.

        Args:
            config_toml: The text of `config.toml`.

        Raises:
            UserError: A run or something else is there, or it cannot be written; what was made is removed again.
        """
        self.stay()
        made = self._make()
        try:
            found = {item.name for item in self.path.iterdir()}
            self._lock = Lock(self._lock_file)
            self._refuse_what_is_there()
            self.checkpoints.mkdir(exist_ok=True)
            self.code.mkdir(exist_ok=True)
            for name, data in describe_code().items():
                write_atomically(self.code / name, data)
            write_atomically(self.config, config_toml.encode())
        except BaseException as error:
            if self._lock is not None and made:
                self.close()
                shutil.rmtree(self.path, ignore_errors=True)
            self.close()
            _remove_empty(made)
            if isinstance(error, OSError):
                raise user_error(error, self.path, "creating") from error
            raise
        self._made, self._found = made, found
        return self

    def open(self) -> Self:
        """Locks a folder that holds a run, to continue it.

        Raises:
            UserError: There is no run, or another process is writing to it.
        """
        self.stay()
        if not self.exists:
            raise UserError(f"{self.path} holds no run (no config.toml): check the path")
        self._lock = Lock(self._lock_file)
        return self

    def replace(self, config_toml: str) -> Self:
        """`create` in the place of the run that is there, which is deleted once the new one is whole.

        Args:
            config_toml: The text of the new `config.toml`.

        Raises:
            UserError: Another process is writing to the old run, or the new one cannot be made; the old one is left.
        """
        self.stay()
        old = self.path.absolute().with_name(f".{self.path.absolute().name}.replaced")
        lock = self.open()._lock
        self._lock = None  # it stays with the old run's files
        try:
            shutil.rmtree(old, ignore_errors=True)  # what a kill left of an earlier replacement
            self.path.rename(old)
            try:
                self.create(config_toml)
            except BaseException:
                old.rename(self.path)
                raise
            shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            raise user_error(error, self.path, "replacing") from error
        finally:
            if lock is not None:
                lock.release()
        return self

    def stay(self) -> None:
        """Where the working directory was changed since, as by an environment that was made, take the whole path."""
        if self._began_in is not None and _here() != self._began_in:
            self._lie_at(self._began_in / self.path)
            self._began_in = None

    def go_back(self) -> str:
        """Go back to the working directory in which the folder was opened, where its path begins.

        Returns:
            What to tell of it; "" where nobody has changed it.
        """
        began, there = self._began_in, _here()
        if began is None or there == began:
            return ""
        os.chdir(began)
        return (
            f"code of your own (the environment, a reward, a callback) has changed the working directory to {there}, "
            f"and the run would go on in another folder there: give its whole path, --run {began / self.path} (run=...)"
        )

    def close(self) -> None:
        """Unlocks the folder; does nothing the second time."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Unlocks the folder; a run that was made here and failed before anything was worth keeping leaves nothing."""
        if isinstance(error, KeyboardInterrupt) and _holds_anything(self.checkpoints):
            error.add_note("the last checkpoint is whole, and the same command resumes from it")
        if error is not None:
            with suppress(OSError):
                self._withdraw()
        self.close()

    def _withdraw(self) -> None:
        """Removes what this call has made, unless there is a checkpoint, an update, a metric or a file of others."""
        if self._found is None or not self.path.is_dir():
            return
        there = {item.name for item in self.path.iterdir()} - self._found
        strange = any(name not in self._names() and not name.endswith(".tmp") for name in there)
        measured = self.metrics.exists() and self.metrics.stat().st_size > 0
        if strange or measured or self.results.exists() or any(map(_holds_anything, (self.checkpoints, self.replay))):
            return
        # The configuration first: what a kill leaves of this is no run. The lock last: until then nobody is let in.
        for path in sorted(
            (self.path / name for name in there), key=lambda x: (x != self.config, x == self._lock_file)
        ):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.close()
        _remove_empty(self._made)

    def _names(self) -> set[str]:
        """Of what a run's folder holds."""
        return {item.name for item in vars(self).values() if isinstance(item, Path)}

    def _make(self) -> list[Path]:
        """Makes the folder and its parents; returns those that were not there, innermost first."""
        made: list[Path] = []
        try:
            missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            for folder in reversed(missing):
                folder.mkdir()
                made.insert(0, folder)
            if self.path.is_dir() and not self._lock_file.exists():
                self._refuse_what_is_there()  # before a lock file is put into a folder that is not ours
        except OSError as error:
            _remove_empty(made)
            raise user_error(error, self.path, "creating") from error
        return made

    def _refuse_what_is_there(self) -> None:
        if self.exists:
            raise UserError(f"{self.path} already holds a run: continue it or choose another folder")
        ours = self._names()
        others = sorted(item.name for item in self.path.iterdir() if item.name not in ours and item.suffix != ".tmp")
        if others:
            raise UserError(f"{self.path} is not empty (it holds {others[0]}): choose a new or an empty folder")


def find_run(folder: Path) -> Path:
    """The folder of the run itself, where that of all stages of one may have been given.

    Raises:
        UserError: there is no run.
    """
    for path in (folder, folder / "ppo"):
        if (path / "config.toml").is_file():
            return path
    below = sorted(path.parent.name for path in folder.glob("*/config.toml"))
    if below:
        raise UserError(f"{folder} holds no run itself, but others below it: give one of them, as {folder / below[0]}")
    raise UserError(f"{folder} holds no run (no config.toml): check the path")


def _here() -> Path | None:
    """The working directory; None where it was deleted."""
    with suppress(OSError):
        return Path.cwd()
    return None


def _holds_anything(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _remove_empty(made: list[Path]) -> None:
    """Removes the folders that were made, innermost first, up to one in which something has come to live."""
    with suppress(OSError):
        for folder in made:
            if folder.exists():
                folder.rmdir()
