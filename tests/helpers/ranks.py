"""Ranks for tests: real processes that meet over gloo, forked from a server that imports torch once."""

import multiprocessing as mp
import os
import time
import traceback
from importlib import import_module

import torch.distributed as dist

_CONTEXT = mp.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "torch",
        "torch.distributed",
        "proximo.control.trainer",
        "proximo.scale.mesh",
        "transformers.models.llama.modeling_llama",
        "proximo.language.ppo.trainer",
    ]
)


def on_ranks(count, function, *arguments, limit=60, environment=None):
    """What `function(mesh, *arguments)` returns on each of `count` ranks; or its process's exit code, where it died.

    Args:
        count: ranks.
        function: `module:name`, of a module of tests/helpers.
        arguments: of the function, after the mesh.
        limit: seconds after which a rank that has not ended is a failure: a deadlock fails, and does not hang.
        environment: variables for all ranks.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ends, processes = [], []
    for rank in range(count):
        here, there = _CONTEXT.Pipe(duplex=False)
        variables = {
            **(environment or {}),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        process = _CONTEXT.Process(target=_rank, args=(there, variables, function, arguments), daemon=True)
        process.start()
        there.close()
        ends.append(here)
        processes.append(process)
    deadline, answers = time.monotonic() + limit, []
    try:
        for rank, (end, process) in enumerate(zip(ends, processes, strict=True)):
            answer = None
            if end.poll(max(0.1, deadline - time.monotonic())):
                try:
                    answer = end.recv()
                except EOFError:
                    process.join()
                    answer = ("died", process.exitcode)
            assert answer is not None, f"rank {rank} of {count} has not ended after {limit} s"
            assert answer[0] != "failed", f"rank {rank} of {count}:\n{answer[1]}"
            answers.append(answer[1])
    finally:
        for process in processes:
            process.kill()
            process.join()
    return answers


def _rank(end, variables, function, arguments):
    os.environ.update(variables)
    import torch

    from proximo.scale import mesh

    torch.set_num_threads(1)
    module, name = function.split(":")
    try:
        answer = ("answer", getattr(import_module(module), name)(mesh.current_mesh(), *arguments))
    except BaseException:
        answer = ("failed", traceback.format_exc())
    end.send(answer)
    mesh.leave()
