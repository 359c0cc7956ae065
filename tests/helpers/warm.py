"""Processes that begin with torch imported: real ones, forked from one that has imported it and done nothing else.

An interpreter that imports torch, Gymnasium and EnvPool takes three seconds of the processor before it does anything,
and the tests start a hundred. `Popen` and `run` are those of `subprocess`, for `[sys.executable, "-m", MODULE, ...]`,
`[sys.executable, "-c", CODE, ...]` and `[sys.executable, FILE, ...]`. All of them have one hash seed; where the start
itself is tested, use `subprocess`.

All processes of a test run ask one server, which the first of them starts and which ends with the last of them. Each
process that it forks is waited for by a guard, a process that tells its exit status and keeps its number taken until
whoever asked has heard it.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import types

PIPE = subprocess.PIPE
PRELOADED = ("numpy", "torch", "torch.distributed", "gymnasium", "envpool", "rich.live", "tyro", "proximo.control.run")
LANGUAGE = ("transformers.models.llama.modeling_llama", "peft", "torch.distributed.fsdp", "proximo.language.ppo.run")
NAME = os.environ.setdefault("PROXIMO_WARM_TESTS", f"proximo-tests-{secrets.token_hex(8)}")
"""Where the server is asked. The processes that pytest starts, and those that tests start, have it from the first."""
WAITING, PROCESS, LANGUAGE_TOO = b"w", b"p", b"l"
"""The first byte of a connection: one that is held as long as there may be requests, and the two requests."""
PATIENCE = 600  # seconds for a server that nobody has asked yet


class Popen(subprocess.Popen):
    """A `subprocess.Popen` whose process is forked by the server, where the system can do that.

    Args:
        language: whether it begins with what language models need, too.
    """

    def __init__(self, *arguments, language=False, **options):
        self._language, self._guard = language, None
        super().__init__(*arguments, **options)

    def _execute_child(self, args, *rest):
        if not sys.platform.startswith("linux"):
            super()._execute_child(args, *rest)
            return
        cwd, env, pipes, new_session = rest[4], rest[5], rest[9:15], rest[20]
        read, written, failures = pipes[0], pipes[3], pipes[5]
        told = {
            "arguments": [os.fspath(x) for x in args[1:]],
            "cwd": os.fspath(cwd or os.getcwd()),
            "environment": dict(os.environ if env is None else env),
            "new_session": new_session,
        }
        shared = [here if end == -1 else end for here, end in ((0, read), (1, written), (2, failures))]
        try:
            _server(self._language)
            self._guard = _connected(_address(self._language), PROCESS)
            socket.send_fds(self._guard, [b"x"], shared)
            self._guard.sendall(json.dumps(told).encode() + b"\n")
            self.pid = int(_line(self._guard))
        finally:
            self._close_pipe_fds(*pipes)
        self._child_created = True

    def _try_wait(self, wait_flags):
        if self._guard is None:
            return super()._try_wait(wait_flags)
        if wait_flags & os.WNOHANG and not select.select([self._guard], [], [], 0)[0]:
            return 0, 0
        status = int(_line(self._guard))
        self._guard.close()
        self._guard = None
        return self.pid, status

    def _internal_poll(self, _deadstate=None, **_):
        if self._guard is None:
            return super()._internal_poll(_deadstate)
        if self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode


def run(command, *, capture_output=False, timeout=600, check=False, **options):
    """As `subprocess.run`."""
    pipes = {"stdout": PIPE, "stderr": PIPE} if capture_output else {}
    with Popen(command, **pipes, **options) as process:
        try:
            told = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, *told)
    if check:
        done.check_returncode()
    return done


def instead_of(patch, module, language=False):
    """What this module of the product starts in a new interpreter is warm too: of one hash seed, whatever it says."""
    patch.setattr(module, "subprocess", module_of_starts(language))


def module_of_starts(language=False):
    """What stands in for `subprocess` in a module."""
    starts = {"Popen": functools.partial(Popen, language=language), "run": functools.partial(run, language=language)}
    return types.SimpleNamespace(PIPE=PIPE, **starts)


def _address(language):
    return f"\0{NAME}{'-language' * language}"  # no file, so nothing is left behind


def _connected(address, kind):
    made = socket.socket(socket.AF_UNIX)
    try:
        made.connect(address)
    except OSError:
        made.close()
        raise
    made.sendall(kind)
    return made


def _line(connection):
    told = b""
    while not told.endswith(b"\n"):
        if not (more := connection.recv(64)):
            raise ChildProcessError("the process that forks processes for tests has ended")
        told += more
    return told


@functools.cache
def _server(language):
    """A connection that keeps the server there; it is started, or asked for one with more, where there is none."""
    with contextlib.suppress(ConnectionRefusedError):
        return _connected(_address(language), WAITING)
    if language:
        _server(False)
        _connected(_address(False), LANGUAGE_TOO).close()
    else:
        subprocess.Popen([sys.executable, __file__], stdin=subprocess.DEVNULL)
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            return _connected(_address(language), WAITING)
        time.sleep(0.01)


def _served(language=False):
    """Fork for each request; returns in the new process alone, with what it is to do."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(_address(language))
    except OSError:
        os._exit(0)  # another has been faster
    listener.listen(128)
    for name in LANGUAGE if language else PRELOADED:
        with contextlib.suppress(ImportError):  # EnvPool is not everywhere
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    waiting, patience = [], PATIENCE
    while True:
        ready = select.select([listener, *waiting], [], [], patience)[0]
        for connection in set(ready) - {listener}:
            waiting.remove(connection)
            connection.close()
        if listener in ready:
            made, _ = listener.accept()
            kind = made.recv(1)
            if kind == WAITING:
                waiting.append(made)
                patience = None
                continue
            if kind and os.fork() == 0:
                for each in (listener, *waiting):
                    each.close()
                if kind == LANGUAGE_TOO:
                    made.close()
                    return _served(language=True)
                return _guarded(made)
            made.close()
        elif not waiting:
            os._exit(0)  # the tests are over
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _guarded(client):
    """Fork what is asked for and tell its number and status; returns in the new process, with what it is to do."""
    shared = socket.recv_fds(client, 1, 3)[1]
    with client.makefile("rb") as file:
        told = json.loads(file.readline())
    if (pid := os.fork()) == 0:
        client.close()
        for number, end in enumerate(shared):
            os.dup2(end, number)
            os.close(end)
        return told
    for end in shared:
        os.close(end)
    with contextlib.suppress(OSError):  # nobody may wait for it any more
        client.sendall(b"%d\n" % pid)
        ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        status = ended.si_status << 8 if ended.si_code == os.CLD_EXITED else ended.si_status
        client.sendall(b"%d\n" % status)
        client.recv(1)  # until it is closed
    os.waitpid(pid, 0)
    os._exit(0)


def _end(told):
    """Be the interpreter that was asked for, up to its end, without taking everything apart as an interpreter would."""
    code = 0
    try:
        _become(told)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if code and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        sys.last_type, sys.last_value, sys.last_traceback = told = type(error), error, error.__traceback__
        sys.excepthook(*told)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _become(told):
    import runpy

    import numpy as np

    if told["new_session"]:
        os.setsid()
    # Tests that run under nohup, or behind a script, ignore signals that their processes are to hear.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(told["cwd"])
    os.environ.clear()
    os.environ.update(told["environment"])
    np.random.seed()
    kind, *arguments = told["arguments"]
    first = {"-c": "", "-m": told["cwd"]}.get(kind, os.path.dirname(os.path.abspath(kind)))
    sys.path[0:1] = [first, *filter(None, told["environment"].get("PYTHONPATH", "").split(os.pathsep))]
    if kind == "-c":
        sys.argv = ["-c", *arguments[1:]]
        sys.modules["__main__"] = main = types.ModuleType("__main__")
        exec(compile(arguments[0], "<string>", "exec"), vars(main))
    elif kind == "-m":
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    _end(_served())
