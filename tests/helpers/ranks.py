"""Ranks for tests: real processes that meet over gloo, forked from one that has imported torch and transformers."""

import os
import pickle
import select
import sys
import time
import traceback
from importlib import import_module

import torch.distributed as dist
import warm

RANK = "import ranks; ranks.answer()"


def on_ranks(count, function, *arguments, limit=300, environment=None):
    """What `function(mesh, *arguments)` returns on each of `count` ranks; or its process's exit code, where it died.

    Args:
        count: ranks.
        function: `module:name`, of a module of tests/helpers.
        arguments: of the function, after the mesh.
        limit: seconds after which a rank that has not ended is a failure: a deadlock fails, and does not hang.
        environment: variables for all ranks.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, asked = [], pickle.dumps((function, arguments))
    for rank in range(count):
        variables = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            **(environment or {}),
        }
        command, pipes = [sys.executable, "-c", RANK], {"stdin": warm.PIPE, "stdout": warm.PIPE}
        processes.append(warm.Popen(command, language=True, env=variables, **pipes))
        processes[-1].stdin.write(asked)
        processes[-1].stdin.close()
    deadline, answers = time.monotonic() + limit, []
    try:
        for rank, process in enumerate(processes):
            kind, answer = _answered(process, deadline)
            assert kind != "late", f"rank {rank} of {count} has not ended after {limit} s"
            assert kind != "failed", f"rank {rank} of {count}:\n{answer}"
            answers.append(answer)
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stdout.close()
    return answers


def _answered(process, deadline):
    """What a rank has said; a process that it has left behind may hold its pipe open, so its end is looked for too."""
    while not (ended := process.poll() is not None) and time.monotonic() < deadline:
        if select.select([process.stdout], [], [], 0.05)[0]:
            break
    if not select.select([process.stdout], [], [], 0)[0]:
        return ("died", process.returncode) if ended else ("late", None)
    try:
        return pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        return "died", process.wait()


def answer():
    """In a rank's process: do what is asked on its standard input, and answer on its standard output."""
    asked, ours = os.fdopen(0, "rb").read(), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what it prints is no answer
    import torch

    from proximo.scale import meeting

    torch.set_num_threads(1)
    function, arguments = pickle.loads(asked)
    module, name = function.split(":")
    try:
        told = ("answer", getattr(import_module(module), name)(meeting.current_mesh(), *arguments))
    except BaseException:
        told = ("failed", traceback.format_exc())
    with ours:
        pickle.dump(told, ours)
    meeting.leave()
