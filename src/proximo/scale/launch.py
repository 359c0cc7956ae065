"""Starting the ranks of a run, by torchrun or Ray Train, and what a launcher and its ranks tell each other."""

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def run_ray(count: int, arguments: Sequence[str], folder: Path, *, restarts: int = 0) -> int:
    """Run `proximo ARGUMENTS` as `count` workers of a Ray cluster, by Ray Train's TorchTrainer.

    The cluster is that of RAY_ADDRESS; without it, one is started on this machine for as long as the run takes.

    Args:
        count: workers; each takes a GPU where the cluster has as many, else a CPU.
        arguments: of the command line, verb first.
        folder: of the run, on a disk that every machine sees: a worker that is restarted may lie on another one.
        restarts: how often all workers are started anew, from the last checkpoint, where one was lost.

    Returns:
        The exit code that the workers agreed on.

    Raises:
        UserError: Ray is not installed or not there, or a worker was lost, more often than `restarts`.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker comes twice
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError as error:
        raise UserError(f"--launch ray needs Ray Train: `pip install 'ray[train]'` ({error})") from error
    import shutil
    from contextlib import ExitStack, redirect_stderr, redirect_stdout

    beside = folder.with_name(f".{folder.name}.ray")  # Ray's own notes
    with ExitStack() as stack:
        stack.enter_context(redirect_stderr(_WithoutNoise(sys.stderr)))
        stack.enter_context(redirect_stdout(_WithoutNoise(sys.stdout)))
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        stack.callback(ray.shutdown)
        _join_ray(ray, count)
        gpus = ray.cluster_resources().get("GPU", 0) >= count
        answer = ray.remote(num_cpus=0)(_Answer).remote()
        trainer = TorchTrainer(
            _work,
            train_loop_config={"arguments": list(arguments), "answer": answer, "place": str(Path.cwd())},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus),
            run_config=RunConfig(
                name=folder.name, storage_path=str(beside), failure_config=FailureConfig(max_failures=restarts)
            ),
        )
        try:
            trainer.fit()
        except Exception as error:  # of Ray's many classes: the workers' own words are above
            if (code := ray.get(answer.told.remote())) is None:
                first = str(error).strip().splitlines()[0]
                raise UserError(
                    f"Ray Train lost a worker ({first}); the same command resumes from the last checkpoint, and "
                    "--restarts N does so by itself"
                ) from error
            return int(code)
        return int(ray.get(answer.told.remote()) or 0)


def _join_ray(ray: Any, count: int) -> None:
    """Join the cluster of RAY_ADDRESS, or start one here.

    Raises:
        UserError: it can not be reached.
    """
    if ray.is_initialized():
        return
    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": max(count, os.cpu_count() or 1)}
    try:
        ray.init(logging_level="ERROR", log_to_driver=True, **here)
    except (ConnectionError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"no Ray cluster answers at RAY_ADDRESS = {os.environ.get('RAY_ADDRESS')}: {first}") from error


class _WithoutNoise:
    """A stream without the lines that Ray's cleaner writes each second where there is no dashboard."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text) if "PlacementGroupCleaner" in text else int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Answer:
    """What the workers and their launcher tell each other: how often they began, and what the run ended with."""

    def __init__(self) -> None:
        self._code: int | None = None
        self._begun = 0

    def begin(self) -> int:
        self._begun += 1
        return self._begun

    def tell(self, code: int) -> None:
        self._code = code

    def told(self) -> int | None:
        return self._code


def _work(config: dict[str, Any]) -> None:
    """What each worker does; Ray Train has told it its rank."""
    from contextlib import suppress
    from importlib import import_module

    import ray

    with suppress(OSError):  # what is named by `module:function` lies where the command was given
        os.chdir(config["place"])
        sys.path.insert(0, config["place"])

    first = os.environ["RANK"] == "0"
    if first:  # only rank 0 asks whether it was restarted
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(ray.get(config["answer"].begin.remote()) - 1)
    code = import_module("proximo.cli.main").main(config["arguments"])  # as -m proximo does, from below the cli
    if code in (LOST, BROKEN):
        raise RuntimeError("a worker was lost")
    if first:
        ray.get(config["answer"].tell.remote(code))
