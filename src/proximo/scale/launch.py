"""Starting the ranks of a run by torchrun or on a Ray cluster. Nowhere else is Ray imported."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from proximo.errors import UserError
from proximo.scale.cpus import available_cpus
from proximo.scale.launched import ANSWER, BROKEN, LOST, told_beside
from proximo.scale.stopping import Stops, asking, on_signal

_GRACE = 30  # seconds that torchrun gives the other ranks to end once one has failed, before it kills them


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

    for name in ("torch.distributed.elastic", *logging.root.manager.loggerDict):  # some have a level of their own
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # it says the same in thirty lines
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, available_cpus() // count)))
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "exit_code"
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=str(uuid4()),
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=restarts,
            monitor_interval=0.1,
            signals_to_handle=",".join(number.name for number in asking("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")),
            logs_specs=_logs(folder, answer, told_beside(answer)),
        )
        os.environ[ANSWER] = str(answer)
        try:
            elastic_launch(config, sys.executable)("-m", "proximo", *arguments)
        except SignalException as error:
            if not answer.exists():
                print(f"proximo: {_what_was_not_saved(error.sigval, config)}", file=sys.stderr, flush=True)
            return 128 + error.sigval
        except ChildFailedError as error:
            if not answer.exists():
                said = told_beside(answer).read_text() if told_beside(answer).exists() else ""
                raise UserError(_what_was_lost(error.failures, count, said)) from error
        finally:
            del os.environ[ANSWER]
        return int(answer.read_text()) if answer.exists() else 0


def _logs(folder: str, *told: Path) -> Any:
    """Where torchrun keeps its notes: in `folder`; what ranks of an attempt have told is no word on the next one."""
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, LogsDest

    class Logs(DefaultLogsSpecs):
        def reify(self, envs: dict[int, dict[str, str]]) -> LogsDest:  # is asked before each start of the ranks
            for file in told:
                file.unlink(missing_ok=True)
            return super().reify(envs)

    return Logs(log_dir=folder)


def _what_was_lost(failures: Mapping[int, Any], count: int, said: str) -> str:
    """A sentence on the rank that was lost first: the others ended with `LOST`, or were told to end.

    Args:
        failures: what torchrun noticed of each rank that failed: `exitcode`, and `timestamp` in whole seconds.
        count: of all ranks.
        said: by the first rank that missed another, or "".
    """
    first = min(failure.timestamp for failure in failures.values())
    hung = [
        rank
        for rank, failure in failures.items()
        if failure.exitcode == -signal.SIGKILL and failure.timestamp - first > _GRACE / 2
    ]
    codes = {rank: failure.exitcode for rank, failure in failures.items()}
    by_themselves = [r for r, c in codes.items() if r not in hung and c not in (LOST, -signal.SIGTERM)]
    if said and not by_themselves:
        late = f"; rank {hung[0]} did not end within {_GRACE} s of being told to, and was killed" if hung else ""
        return said + late
    rank = (*by_themselves, *codes)[0]
    code = codes[rank]
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    why = " (the system does so when memory runs out)" if code == -signal.SIGKILL else ""
    return (
        f"rank {rank} of {count} {how}{why}, and the others ended with it: the same command resumes from the last "
        "checkpoint, and --restarts N does so by itself"
    )


def _what_was_not_saved(number: int, config: Any) -> str:
    """A sentence on ranks that a signal has ended before they could end the iteration, and save."""
    return (
        f"{signal.Signals(number).name} ended the ranks before they had saved: the same command resumes from the last "
        f"checkpoint, or begins; an iteration that goes on for more than {config.shutdown_timeout} s is not waited for "
        "(TORCH_ELASTIC_SHUTDOWN_TIMEOUT=600 waits longer)"
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
    import shutil

    beside = folder.with_name(f".{folder.name}.ray")  # Ray's own notes
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, beside, ignore_errors=True)
        ray = stack.enter_context(joined(count))
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        there = ray.cluster_resources()
        gpus = there.get("GPU", 0) >= count
        if lacks := _lacking(there, count):
            print(f"proximo: {lacks}", file=sys.stderr, flush=True)
        answer = kept_here(ray, _Answer)
        trainer = TorchTrainer(
            _ray_work,
            train_loop_config={"arguments": list(arguments), "answer": answer, "place": str(Path.cwd())},
            torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo"),
            scaling_config=ScalingConfig(num_workers=count, use_gpu=gpus),
            run_config=RunConfig(
                name=folder.name, storage_path=str(beside), failure_config=FailureConfig(max_failures=restarts)
            ),
        )
        error = _fitted(trainer, lambda number: answer.stop.remote(signal.Signals(number).name))
        code = ray.get(answer.told.remote())
        if error is not None and code is None:  # of Ray's many classes: the workers' own words are above
            first = str(error).strip().splitlines()[0]
            raise UserError(
                f"Ray Train lost a worker ({first}); the same command resumes from the last checkpoint, and "
                "--restarts N does so by itself"
            ) from error
        return int(code or 0)


def _lacking(there: Mapping[str, float], count: int) -> str:
    """A sentence on what a cluster has too little of for so many workers, or "".

    It is no refusal: a cluster may grow when it is asked for more.
    """
    cpus, gpus = (int(there.get(kind, 0)) for kind in ("CPU", "GPU"))
    if 0 < gpus < count:
        least = f"the Ray cluster has {gpus} GPU{'s' * (gpus != 1)} for {count} workers, so each takes a CPU and no GPU"
        return f"{least}; --workers {gpus} takes GPUs" + (f"; it has {cpus} CPUs, and waits for more" * (cpus < count))
    if gpus < count and cpus < count:
        least = f"the Ray cluster has {cpus} CPU{'s' * (cpus != 1)} for {count} workers, so they wait for more"
        return f"{least}: give fewer --workers where no machine will join"
    return ""


def kept_here(ray: Any, made: type) -> Any:
    """An actor of this class on the machine of the program that asks: the loss of another one is no loss of it.

    Args:
        ray: joined.
        made: the class; it takes no arguments.
    """
    strategy = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    here = strategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(made).remote()


def _fitted(trainer: Any, stop: Callable[[int], Any]) -> Exception | None:
    """What Ray Train has failed with, or None; a signal meanwhile has the workers stop with a checkpoint.

    It runs in a thread of its own: in the main one it would have Ctrl-C kill the workers, and nobody would hear others.
    """
    failed: list[Exception] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failed.append(error)

    stops, asked_to = Stops(), False
    with on_signal(stops):
        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(0.2)
            if stops.first and not asked_to:
                stop(stops.first)
                asked_to = True
    return failed[0] if failed else None


@contextmanager
def joined(count: int) -> Iterator[Any]:
    """Ray, joined to the cluster of RAY_ADDRESS or to one that is started here for as long as this lasts.

    A program that has joined one itself stays in it.

    Args:
        count: processes that one of our own has room for at least.

    Raises:
        UserError: Ray is not installed, or its cluster can not be reached.
    """
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # or every line of a worker comes twice
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # or lines that two workers both say come once
    try:
        import ray.train
    except ImportError as error:
        raise UserError(f"--launch ray needs Ray Train: `pip install 'ray[train]'` ({error})") from error
    here: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": True}
    if "RAY_ADDRESS" not in os.environ:
        here["num_cpus"] = max(count, available_cpus())
    with redirect_stderr(_WithoutNoise(sys.stderr)), redirect_stdout(_WithoutNoise(sys.stdout)):
        ours = not ray.is_initialized()
        try:
            if ours:
                ray.init(**here)
        except Exception as error:  # a plain one where a cluster of our own does not start within 30 s
            ray.shutdown()
            first, address = str(error).strip().partition("\n")[0], os.environ.get("RAY_ADDRESS")
            what = f"answers at RAY_ADDRESS = {address}" if address else "could be started on this machine"
            raise UserError(f"no Ray cluster {what}: {first}") from error
        try:
            yield ray
        finally:
            if ours:
                ray.shutdown()


class _WithoutNoise:
    """A stream without the lines that Ray's cleaner writes each second where there is no dashboard."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._dropped = False

    def write(self, text: str) -> int:
        # What ends a line may be written by itself.
        self._dropped = "PlacementGroupCleaner" in text or (self._dropped and text == "\n")
        if not self._dropped:
            self._stream.write(text)
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Answer:
    """What the workers and their launcher tell each other: how often they began, who asks them to stop, and what the
    run ended with.
    """

    def __init__(self) -> None:
        self._code: int | None = None
        self._begun = 0
        self._stopping: str | None = None

    def begin(self) -> int:
        self._begun += 1
        self._code = None  # that of workers since lost
        return self._begun

    def tell(self, code: int) -> None:
        self._code = code

    def told(self) -> int | None:
        return self._code

    def stop(self, who: str) -> None:
        self._stopping = who

    def stopping(self) -> str | None:
        return self._stopping


def _ray_work(config: dict[str, Any]) -> None:
    """What each worker does; Ray Train has told it its rank."""
    stand_in(config["place"])
    first = os.environ["RANK"] == "0"
    if first:  # only rank 0 asks whether it was restarted
        os.environ["TORCHELASTIC_RESTART_COUNT"] = str(asked(config["answer"].begin.remote()) - 1)
    with _listening(config["answer"]):
        code = import_module("proximo.cli.main").main(config["arguments"])  # as -m proximo does, from below the cli
    if code in (LOST, BROKEN):
        raise RuntimeError("a worker was lost")
    if first:
        asked(config["answer"].tell.remote(code))


@contextmanager
def _listening(answer: Any) -> Iterator[None]:
    """Within, the training of this worker stops with a checkpoint once its launcher asks for it."""
    ask, ended = import_module("proximo.runs.session.signals").ask, threading.Event()

    def listen() -> None:
        while not ended.wait(1.0):
            if who := asked(answer.stopping.remote()):
                ask(who)

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def stand_in(place: str) -> None:
    """Work where the command was given, so far as this machine has the folder: `module:function` lies there."""
    with suppress(OSError):
        os.chdir(place)
        sys.path.insert(0, place)


def asked(answer: Any) -> Any:
    """What an actor of Ray's has answered, once it has."""
    import ray

    return ray.get(answer)
