"""What a process knows of the launcher that started it, and what it tells it."""

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from proximo.errors import UserError

LOST = 75
"""Exit code of a rank that could not go on without another: no verdict on the run, so a launcher may start all anew."""
BROKEN = 76
"""Exit code of a rank that failed without the others, which end with `LOST`."""
ANSWER = "PROXIMO_EXIT_CODE_FILE"
"""Environment variable: where rank 0 tells our own launcher the exit code that all ranks agreed on."""

_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


def told_beside(answer: str | Path) -> Path:
    """Where the first rank that misses another tells our own launcher so: beside the file that `ANSWER` names."""
    return Path(f"{answer}.lost")


def within() -> bool:
    """Whether a launcher has started this process as one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE") or 1) > 1


def require_one_process(what: str, instead: str) -> None:
    """Refuse what several ranks can not do together, each of which would do it in the same folder.

    Args:
        what: they are asked for.
        instead: what to do, for messages.

    Raises:
        UserError: a launcher has started this process as one of several.
    """
    if within():
        raise UserError(f"{what} is for one process, and a launcher has started {os.environ['WORLD_SIZE']}: {instead}")


def restarted() -> bool:
    """Whether a launcher has started this process anew, in the place of one that was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def end_with_launcher() -> None:
    """Have the system end this process as soon as our own launcher is gone, killed or left by Ctrl-C: ranks that go on
    without it keep their folder from whoever resumes. Where the system can not, they end at their next checkpoint.
    """
    if ANSWER in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def unsure() -> bool:
    """Whether a launcher may start this process anew and `restarted` would not know: torchrun on several machines
    counts on each of them its own losses alone.
    """
    several = int(os.environ.get("GROUP_WORLD_SIZE") or 1) > 1
    return several and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


def ended(code: int, said: str = "") -> int:
    """What a rank ends with, where `code` is what one process alone would end with.

    Args:
        code: exit code. `LOST` where another rank was lost: our own launcher, which knows which one, has the word then.
            `BROKEN` where this one failed alone, as it does whose sentence rank 0 does not say too: the launcher is to
            name this rank, and not those that miss it. That of a signal is 0 where torchrun was given --max-restarts.
        said: a sentence for the person, or ""; of another rank only what rank 0 does not say too.
    """
    answer = os.environ.get(ANSWER) if within() else None  # a rank's own child, told that it is none, has no word here
    rank = os.environ["RANK"] if within() else "0"
    if answer and rank == "0" and code not in (LOST, BROKEN):
        Path(answer).write_text(str(code))  # before the others may end: one that fails has its launcher end this one
    if said and answer and code == LOST:
        _tell_first(told_beside(answer), said)
    elif said:
        heard = code != BROKEN and _heard(code, said)
        if rank == "0" or code == BROKEN:  # whose sentence names the rank
            print(f"proximo: {said}", file=sys.stderr, flush=True)
        elif not heard:
            print(f"proximo: rank {rank}: {said}", file=sys.stderr, flush=True)
            code = BROKEN if code != LOST and _met() else code
    if code in (LOST, BROKEN):
        return code
    return 0 if answer or _started_anew(code) else code  # for a launcher, which would start those anew that fail


def _started_anew(code: int) -> bool:
    """Whether torchrun, given by hand, would take a rank for lost that a signal has stopped with a checkpoint."""
    return code > 128 and within() and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS") or 0) > 0


def _tell_first(file: Path, said: str) -> None:
    """Write what is said, unless another rank has: who misses one later may miss those that have ended with it."""
    with suppress(FileExistsError), file.open("x") as made:
        made.write(said)


def _heard(code: int, said: str) -> bool:
    """Whether a person hears `said` from another rank."""
    if code == LOST:  # who is cut off can ask nobody: one rank of each machine speaks
        return os.environ.get("LOCAL_RANK") != "0"
    if not (met := _met()):  # what fails before follows from the command, alike on one machine, and not on several
        return os.environ.get("LOCAL_RANK") != "0"
    return bool(met.said_by_the_first(said))


def _met() -> Any:
    """`proximo.scale.meeting`, where this process has met others; without that, it may not have imported torch yet."""
    meeting = sys.modules.get("proximo.scale.meeting")
    return None if meeting is None or meeting.mesh_so_far().alone else meeting
