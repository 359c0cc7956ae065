"""Which code made a run: library versions, the git commit of the working directory, and what was not yet committed."""

import functools
import os
import platform
import subprocess
import threading
from importlib import metadata
from pathlib import Path

DIFF_LIMIT = 1_000_000
"""Bytes of uncommitted changes that a run keeps."""

_LIBRARIES = ("proximo", "torch", "numpy", "gymnasium", "envpool", "mujoco", "safetensors")
_GIT_SECONDS = 5.0


def describe_code(folder: Path | None = None, *, limit: int = DIFF_LIMIT) -> dict[str, bytes]:
    """The files that say which code runs now, as name -> content; never fails for want of git.

    Args:
        folder: Where to look for a git repository; the working directory when None.
        limit: Most bytes of the diff to keep.
    """
    folder = folder or Path.cwd()
    lines = [f"python {platform.python_version()}", f"platform {platform.platform()}"]
    lines += [f"{library} {_version(library)}" for library in _LIBRARIES]
    commit, problem = _git(folder, "rev-parse", "HEAD", limit=200)
    if problem:
        return {"version.txt": "\n".join([*lines, f"git: no commit recorded: {problem}", ""]).encode()}
    lines.append(f"git commit {commit.decode('ascii', 'replace').strip()}")
    diff, problem = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", limit=limit + 1)
    if problem:
        lines.append(f"git: no diff recorded: {problem}")
    elif len(diff) > limit:
        lines.append(f"uncommitted changes: the first {limit:,} bytes are in uncommitted.diff, the rest is left out")
    else:
        lines.append(f"uncommitted changes: {'in uncommitted.diff' if diff else 'none'}")
    files = {"version.txt": "\n".join([*lines, ""]).encode()}
    return files | ({"uncommitted.diff": diff[:limit]} if diff else {})


@functools.cache  # reading seven of them takes 20 ms, as long as a short iteration
def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(folder: Path, *arguments: str, limit: int) -> tuple[bytes, str]:
    """At most `limit` bytes of what git answers, and the problem if there was one ("" if none)."""
    command = ["git", "-c", "core.fsmonitor=false", *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        return b"", f"git cannot be started ({error.strerror})"
    late = threading.Timer(_GIT_SECONDS, process.kill)
    late.start()
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        answer = process.stdout.read(limit)
        if len(answer) == limit:
            process.kill()  # there is more than wanted
        complaint = process.stderr.read(2000).decode("utf-8", "replace").strip()
    timed_out = not late.is_alive()
    late.cancel()
    if timed_out:
        return b"", f"git {arguments[0]} took longer than {_GIT_SECONDS:g} s"
    if process.returncode and len(answer) < limit:
        return b"", complaint.splitlines()[0] if complaint else f"git {arguments[0]} ended with {process.returncode}"
    return answer, ""
