"""The processes that train one policy together, a device each."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from proximo.core.invariants import InvariantError
from proximo.core.ranks import Ranks
from proximo.errors import UserError, with_place
from proximo.scale.launched import BROKEN, LOST
from proximo.scale.neighbours import Neighbours, OutOfStepError, takes

TIMEOUT = "PROXIMO_RANK_TIMEOUT"
"""Environment variable: seconds after which ranks that wait for another give it up (600). One that has died is noticed
at once; this is for one that hangs or is cut off."""
_DEFAULT = 600.0
_LONGEST = 1e6  # seconds, 11 days: more milliseconds than 2^31 are no time to those that wait
_TOGETHER = timedelta(seconds=5)  # for the last of those that fail alike
_LOOK = 0.1  # seconds between two looks for what rank 0 does alone, at most
_WORDS = "proximo/words"
_KINDS = {"user": UserError, "invariant": InvariantError}

Answer = TypeVar("Answer")


class LostRankError(UserError):
    """Another rank is gone, so nothing can be done together any more, a checkpoint neither."""

    exit_code: ClassVar[int] = LOST


class BrokenRankError(LostRankError):
    """This rank failed where it could not tell the others: to them it is gone."""

    exit_code: ClassVar[int] = BROKEN


class Mesh(Ranks):
    """The ranks of one run; for a process alone every method is the identity.

    Collectives must be called by all ranks in the same order. A rank that fails alone does so in `together`, or takes
    all others with it.

    Args:
        rank: of this process.
        size: how many there are.
        local_rank: of this process on its machine.
        local_size: how many there are on this machine.
    """

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0, local_size: int = 1) -> None:
        self.rank, self.size, self.local_rank, self.local_size = rank, size, local_rank, local_size
        self.traffic = 0
        """Bytes that this rank has handed to collectives so far."""
        self.apart_now = False
        """Whether rank 0 does something in which it must not ask for the others: they do not come."""
        self._answers, self._failures = 0, 0
        self._store: Any = dist.distributed_c10d._get_default_store() if size > 1 else None
        self._neighbours = _neighbours(rank, size, self._store) if 1 < size == local_size else None

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.size == 1

    @property
    def first(self) -> bool:
        """Whether this one writes the folder and speaks."""
        return self.rank == 0

    @property
    def device(self) -> torch.device:
        """This rank's own GPU, or the CPU where there is none."""
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")

    def require_own(self, device: torch.device) -> None:
        """Refuse ranks that would share a GPU: NCCL takes one rank on each.

        Raises:
            UserError: this machine has fewer than it has ranks.
        """
        there = torch.cuda.device_count()
        if self.size > 1 and device.type == "cuda" and 0 < there < self.local_size:
            raise UserError(
                f"{self.local_size} ranks of this machine have {there} GPUs, and each needs one of "
                "its own: lower their number, or set device = cpu"
            )

    def sum_across_ranks(self, x: Tensor) -> Tensor:
        """See `Ranks.sum_across_ranks`.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size > 1:
            with self._collective(x):
                if self._neighbours is None or not takes(x):
                    dist.all_reduce(x)
                else:  # in one order on all ranks, so that all have the same bits
                    first, *others = self._neighbours.exchange(x, "sum")
                    x.copy_(first)
                    for other in others:
                        x += other
        return x

    def gather(self, x: Tensor) -> Tensor:
        """See `Ranks.gather`.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size == 1:
            return x[None]
        with self._collective(x):
            if self._neighbours is not None and takes(x):
                return torch.stack(self._neighbours.exchange(x, "gather"))
            found = x.new_empty((self.size, *x.shape))
            dist.all_gather(list(found.unbind()), x.contiguous())
        return found

    def broadcast(self, x: Tensor, source: int = 0) -> Tensor:
        """Rank `source`'s `x`, in place; `x` itself.

        Raises:
            LostRankError: another rank is gone.
        """
        if self.size > 1:
            with self._collective(x):
                dist.broadcast(x, source)
        return x

    def broadcast_bytes(self, data: bytes = b"", source: int = 0) -> bytes:
        """What rank `source` gives, on all ranks."""
        if self.size == 1:
            return data
        length = self.broadcast(torch.tensor([len(data)]), source)
        content = torch.empty(int(length), dtype=torch.uint8)
        if self.rank == source and data:
            content = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        return self.broadcast(content, source).numpy().tobytes()

    def gather_bytes(self, data: bytes) -> list[bytes]:
        """What every rank gives, in their order, on rank 0; nothing elsewhere."""
        if self.size == 1:
            return [data]
        lengths = self.gather(torch.tensor([len(data)]))[:, 0].tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        if data:
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        found = [torch.empty_like(padded) for _ in lengths] if self.first else None
        with self._collective(padded):
            dist.gather(padded, found)
        return [x[:n].numpy().tobytes() for x, n in zip(found or [], lengths, strict=False)]

    def gather_json(self, value: Any) -> list[Any]:
        """What every rank gives, in their order, on all ranks; JSON."""
        if self.size == 1:
            return [value]
        data = json.dumps(value).encode()
        lengths = self.gather(torch.tensor([len(data)]))[:, 0].tolist()
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = self.gather(padded)
        return [json.loads(row[:n].numpy().tobytes()) for row, n in zip(rows, lengths, strict=True)]

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self.sum_across_ranks(torch.zeros(1))

    def any(self, flag: bool) -> bool:
        """Whether it is true on one rank at least."""
        return bool(self.sum_across_ranks(torch.tensor([float(flag)])))

    def of_the_first(self, function: Callable[[], Answer]) -> Answer:
        """What `function` returns on rank 0, on all ranks; the others wait for it as long as it takes.

        Args:
            function: is called by rank 0 alone, makes no sums over ranks, and returns what JSON holds.

        Raises:
            UserError: it raised one on rank 0.
        """
        if self.size == 1:
            return function()
        key = self._next_key()
        if not self.first:
            told = json.loads(self._awaited(key))
            if not told.get("left"):
                self.barrier()  # with it rank 0 stays until all have heard: it may have the store, and be done
            if "error" in told:
                raise UserError(told["error"])
            return told["answer"]
        try:
            answer = function()
        except BaseException as error:
            said = str(error) if isinstance(error, UserError) else f"rank 0 failed: {type(error).__name__}: {error}"
            left = not isinstance(error, Exception)
            self._tell(key, json.dumps({"error": said, "left": left}))
            if not left:
                self.barrier()
            raise
        self._tell(key, json.dumps({"answer": answer}))
        self.barrier()
        return answer

    def _next_key(self) -> str:
        """Under which rank 0 tells the others what they wait for, of its own each time."""
        self._answers += 1
        return f"proximo/{self._answers}"

    def _tell(self, key: str, text: str) -> None:
        with self._collective(torch.empty(0)):
            self._store.set(key, text)

    def _awaited(self, key: str) -> bytes:
        """What rank 0 tells, however long it takes: it works alone, and may take as long as it likes."""
        began = time.monotonic()
        with self._collective(torch.empty(0)):
            try:
                while not self._is_told(key):
                    if self._neighbours is not None and self._neighbours.missing() and not self._is_told(key):
                        raise ConnectionResetError("another rank has left")
                    time.sleep(min(_LOOK, (time.monotonic() - began) / 4))
                return bytes(self._store.get(key))
            except OSError:
                if self._neighbours is not None:
                    self._neighbours.close()  # so that those hear of it who wait for this rank
                raise

    def _is_told(self, key: str) -> bool:
        if (told := _soon(lambda: bool(self._store.check([key])), rank_timeout())) is None:
            raise TimeoutError("who has the store is gone, or cut off")
        return told

    @contextmanager
    def together(self) -> Iterator[None]:
        """Code without collectives in it, that fails on all ranks if it fails on one, with the words of the first such.

        Raises:
            UserError: it raised one, on some rank; or another error on another rank.
            InvariantError: it raised one, on some rank.
        """
        if self.size == 1:
            yield
            return
        failed: Exception | None = None
        try:
            yield
        except LostRankError:
            raise
        except Exception as error:
            failed = error
        flags = self.gather(torch.tensor([float(failed is not None)]))[:, 0]
        if not flags.any():
            return
        source = int(flags.nonzero()[0])
        told = json.loads(self.broadcast_bytes(_told(failed) if self.rank == source else b"", source))
        where = "" if flags.all() else f" (on rank {source} of {self.size})"
        raise _KINDS[told["kind"]](told["text"] + where) from failed

    @contextmanager
    def led(self) -> Iterator[None]:
        """As `together`, for code in which rank 0 does something alone: the others wait for it as long as it takes."""
        with self.together():
            if self.size == 1:
                yield
                return
            key = self._next_key()
            try:
                yield
            except LostRankError:
                raise  # rank 0 may wait for this very rank
            except BaseException:
                self._end_lead(key)
                raise
            self._end_lead(key)

    def _end_lead(self, key: str) -> None:
        if self.first:
            self._tell(key, "")
        else:
            self._awaited(key)

    def of_which(self, flag: bool) -> list[int]:
        """The ranks on which it is true."""
        return [int(i) for i in self.gather(torch.tensor([float(flag)]))[:, 0].nonzero()]

    def all_failed(self, error: Exception) -> bool:
        """Whether all ranks have failed here, so that they can go on together; one that fails alone leaves its words,
        since the others wait where it does not come any more.
        """
        self._failures += 1
        keys = [f"proximo/failed/{self._failures}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], "")
        try:
            self._store.wait(keys, _TOGETHER)
        except RuntimeError:
            self.leave_words(error)
            return False
        return True

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Code of torch's that waits for other ranks by itself.

        Raises:
            LostRankError: another rank is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.size > 1 and (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
                raise self._lost() from error
            raise

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Code of torch's that waits for other ranks by itself, where one that fails can tell none: its process ends.

        A `UserError` or an `InvariantError` in it is taken to be that of all: such come of sums over ranks.

        Raises:
            BrokenRankError: this rank failed.
            LostRankError: another rank is gone.
        """
        try:
            with self.waiting():
                yield
        except (UserError, InvariantError):
            raise
        except Exception as error:
            if self.size == 1:
                raise
            raise BrokenRankError(self.leave_words(error)) from error

    @contextmanager
    def last_words(self) -> Iterator[None]:
        """Code with collectives in it, some of them by code of the user's: the others hear why a rank fails in it.

        Raises:
            LostRankError: another rank is gone; with its words where it had any.
        """
        try:
            yield
        except (LostRankError, InvariantError):  # the latter is what all have found
            raise
        except Exception as error:
            if self.size > 1:
                self.leave_words(error)
            raise

    def leave_words(self, error: BaseException) -> str:
        """Why this rank leaves, left for those who will miss it; the sentence that they will hear."""
        what = str(error) if isinstance(error, UserError) else with_place(error)
        said = f"rank {self.rank} of {self.size} failed where all compute together: {what}"
        said = f"{said}; the same command resumes from the last checkpoint"
        _soon(lambda: self._store.set(_WORDS, said))
        return said

    @contextmanager
    def _collective(self, x: Tensor) -> Iterator[None]:
        self.traffic += x.numel() * x.element_size()
        try:
            yield
        except OutOfStepError as error:
            raise LostRankError(self._words() or str(error)) from error
        except (RuntimeError, OSError) as error:
            raise self._lost() from error

    def _words(self) -> str:
        """The last words of a rank, or ""."""
        return _soon(lambda: bytes(self._store.get(_WORDS)).decode() if self._store.check([_WORDS]) else "") or ""

    def _lost(self) -> LostRankError:
        return LostRankError(
            self._words()
            or f"one of {self.size} ranks is gone, or was not heard of for {rank_timeout():,.0f} s ({TIMEOUT} sets "
            "that): its own words, if it had any, are above; the same command resumes from the last checkpoint"
        )


ALONE = Mesh()
"""One process."""


def _neighbours(rank: int, size: int, store: Any) -> Neighbours | None:
    """What ranks on one machine exchange small tensors by; None on all of them where one can not."""

    def all_have(flag: bool) -> bool:
        missing = torch.tensor([float(not flag)])
        dist.all_reduce(missing)
        return not missing

    return Neighbours.met(rank, size, store, rank_timeout(), all_have)


def _told(error: Exception | None) -> bytes:
    kind = "invariant" if isinstance(error, InvariantError) else "user"
    text = str(error) if error is None or isinstance(error, UserError | InvariantError) else with_place(error)
    return json.dumps({"kind": kind, "text": text}).encode()


def _soon(asked: Callable[[], Answer], seconds: float = 2.0) -> Answer | None:
    """What the store answers; None where it does not within `seconds`, as TCP would try for a quarter of an hour."""
    answers: list[Answer] = []

    def ask() -> None:
        with suppress(RuntimeError):  # who has the store may be gone
            answers.append(asked())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else None


def rank_timeout() -> float:
    """Seconds after which a rank that is waited for is given up.

    Raises:
        UserError: the environment names what is no such number.
    """
    given = os.environ.get(TIMEOUT) or _DEFAULT
    try:
        seconds = float(given)
        if 0 < seconds <= _LONGEST:
            return seconds
    except ValueError:
        pass
    raise UserError(f"{TIMEOUT} = {given!r} must be a number of seconds above 0, of {_LONGEST:,.0f} at most")
