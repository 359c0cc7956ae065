"""Processes that begin with torch imported: real ones, forked from one that has imported it and done nothing else.

An interpreter that imports torch, Gymnasium and EnvPool takes three seconds of the processor before it does anything,
and the tests start a hundred. `Popen` and `run` are those of `subprocess`, for `[sys.executable, "-m", MODULE, ...]`,
`[sys.executable, "-c", CODE, ...]` and `[sys.executable, FILE, ...]`. All of them have one hash seed; where the start
itself is tested, use `subprocess`.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types

PIPE = subprocess.PIPE
PRELOADED = ("numpy", "torch", "torch.distributed", "gymnasium", "envpool", "rich.live", "tyro", "proximo.control.run")
LANGUAGE = ("transformers.models.llama.modeling_llama", "peft", "proximo.language.ppo.run")
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER: an orphan becomes the child of this process


class Popen(subprocess.Popen):
    """A `subprocess.Popen` whose process is forked, where the system lets this process be the parent of it.

    Args:
        language: whether it begins with what language models need, too.
    """

    def __init__(self, *arguments, language=False, **options):
        self._modules = PRELOADED + LANGUAGE * language
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
        ours, theirs = socket.socketpair()
        try:
            _adopt(True)
            socket.send_fds(_server(self._modules), [b"x"], [theirs.fileno()])
            socket.send_fds(ours, [b"x"], shared)
            theirs.close()
            with ours.makefile("rwb") as file:
                file.write(json.dumps(told).encode() + b"\n")
                file.flush()
                self.pid = int(file.read())  # up to its end: the process between the two is gone
        finally:
            _adopt(False)
            ours.close()
            self._close_pipe_fds(*pipes)
        self._child_created = True


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
    starts = {"Popen": functools.partial(Popen, language=language), "run": functools.partial(run, language=language)}
    patch.setattr(module, "subprocess", types.SimpleNamespace(PIPE=PIPE, **starts))


def _adopt(yes):
    ctypes.CDLL(None).prctl(_SUBREAPER, int(yes), 0, 0, 0)


@functools.cache
def _server(modules):
    """The end of a pair of sockets at which requests are made; the other process ends with it."""
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, str(theirs.fileno()), *modules]
    subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    theirs.close()
    return ours


def _serve(requests):
    """Fork for each request; returns in the new process alone, with what it is to do."""
    while True:
        sent = socket.recv_fds(requests, 1, 1)[1]
        if not sent:
            os._exit(0)  # the tests are over
        client = socket.socket(fileno=sent[0])
        shared = socket.recv_fds(client, 1, 3)[1]
        with client.makefile("rb") as file:
            told = json.loads(file.readline())
        if (between := os.fork()) == 0:
            if (pid := os.fork()) == 0:
                requests.close()
                client.close()
                for number, end in enumerate(shared):
                    os.dup2(end, number)
                    os.close(end)
                return told
            client.sendall(str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        client.close()
        for end in shared:
            os.close(end)


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
        sys.excepthook(type(error), error, error.__traceback__)
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
    for name in sys.argv[2:]:
        with contextlib.suppress(ImportError):  # EnvPool is not everywhere
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _end(_serve(socket.socket(fileno=int(sys.argv[1]))))
