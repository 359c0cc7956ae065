"""A Ray cluster of this machine for tests, and its workers."""

import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

MARK = "PROXIMO_TEST_CLUSTER"
CODE = """
import os, sys
os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
os.environ["RAY_worker_niceness"] = "0"
import ray
while not ray.is_initialized():
    try:
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, logging_level="ERROR")
    except Exception:  # Ray gives a start 30 s, which a busy machine exceeds
        ray.shutdown()
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def cluster():
    """Variables for the processes that are to use it."""
    mark = {MARK: str(os.getpid()), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], env=os.environ | mark, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        address = process.stdout.readline().strip()
        assert address, "no cluster has started"
        yield os.environ | mark | {"RAY_ADDRESS": address}
    finally:
        process.stdin.close()
        process.wait(60)


def workers(title):
    """Processes of the cluster of which Ray says so what they do."""
    mark = f"{MARK}={os.getpid()}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            named = f"ray::{title}".encode() in (folder / "cmdline").read_bytes()
            if named and mark in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)
