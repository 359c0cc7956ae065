"""Starting the ranks of a run by torchrun, and what a launcher and its ranks tell each other."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from proximo.errors import UserError

LOST = 75
"""Exit code of a rank that could not go on without another: no verdict on the run, so a launcher may start all anew."""
BROKEN = 76
"""Exit code of a rank that failed without the others, which end with `LOST`."""
_ANSWER = "PROXIMO_EXIT_CODE_FILE"
"""Environment variable: where rank 0 tells our own launcher the exit code that all ranks agreed on."""


def within() -> bool:
    """Whether a launcher has started this process as one of several ranks."""
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE") or 1) > 1


def restarted() -> bool:
    """Whether a launcher has started this process anew, in the place of one that was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def ended(code: int, said: str = "") -> int:
    """What a rank ends with, where `code` is what one process alone would end with.

    Args:
        code: exit code. `LOST` where another rank was lost: our own launcher, which knows which one, has the word then.
            `BROKEN` where this one failed alone: nobody else knows why.
        said: a sentence for the person, or ""; of another rank only what rank 0 does not say too.
    """
    answer = os.environ.get(_ANSWER)
    rank = os.environ["RANK"] if within() else "0"
    if said and not (answer and code == LOST):
        heard = code != BROKEN and _heard(code, said)
        if rank == "0" or code == BROKEN:  # whose sentence names the rank
            print(f"proximo: {said}", file=sys.stderr, flush=True)
        elif not heard:
            print(f"proximo: rank {rank}: {said}", file=sys.stderr, flush=True)
    if not answer or code in (LOST, BROKEN):
        return code
    if rank == "0":
        Path(answer).write_text(str(code))
    return 0  # for a launcher, which would start those anew that fail


def _heard(code: int, said: str) -> bool:
    """Whether a person hears `said` from another rank."""
    if code == LOST:  # who is cut off can ask nobody: one rank of each machine speaks
        return os.environ.get("LOCAL_RANK") != "0"
    met = sys.modules.get("proximo.scale.mesh")  # without it, nothing has imported torch yet
    return met is None or bool(met.said_by_the_first(said))


def run_ranks(count: int, arguments: Sequence[str], *, restarts: int = 0) -> int:
    """Run `proximo ARGUMENTS` as `count` ranks on this machine, by torchrun's own agent.

    Args:
        count: processes; each takes one GPU where there are any.
        arguments: of the command line, verb first.
        restarts: how often all ranks are started anew, from the last checkpoint, where one was lost.

    Returns:
        The exit code that the ranks agreed on, or that of a signal.

    Raises:
        UserError: a rank was lost, more often than `restarts`.
    """
    import logging
    import tempfile
    from uuid import uuid4

    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it says the same in thirty lines
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        monitor_interval=0.1,
    )
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "exit_code"
        os.environ[_ANSWER] = str(answer)
        try:
            elastic_launch(config, sys.executable)("-m", "proximo", *arguments)
        except SignalException as error:
            return 128 + error.sigval
        except ChildFailedError as error:
            if not answer.exists():
                codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
                raise UserError(_what_was_lost(codes, count)) from error
        finally:
            del os.environ[_ANSWER]
        return int(answer.read_text()) if answer.exists() else 0


def _what_was_lost(codes: dict[int, int], count: int) -> str:
    """A sentence on the rank that was lost first: the others ended with `LOST`, or were told to end."""
    told = (LOST, -signal.SIGTERM)
    rank, code = next(((r, c) for r, c in codes.items() if c not in told), next(iter(codes.items())))
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    why = " (the system does so when memory runs out)" if code == -signal.SIGKILL else ""
    return (
        f"rank {rank} of {count} {how}{why}, and the others ended with it: the same command resumes from the last "
        "checkpoint, and --restarts N does so by itself"
    )
