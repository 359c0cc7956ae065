import os
import signal
import subprocess
import sys
import threading

import pytest

from proximo.runs.session.signals import StopRequest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")

CODE = """
import signal, time
from proximo.runs.session.signals import StopRequest
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job starts with SIGINT ignored
with StopRequest() as stop:
    print("ready", flush=True)
    try:
        while not stop.requested: time.sleep(0.01)
        print(stop.requested, flush=True)
        if stop.requested == "SIGINT": time.sleep(60)
    except KeyboardInterrupt:
        print("interrupted")
"""


def test_sigterm_asks_and_a_second_ctrl_c_interrupts():
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.communicate()[0] == "SIGTERM\n"
    assert process.returncode == 0
    process = subprocess.Popen([sys.executable, "-c", CODE], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "SIGINT\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate()[0] == "interrupted\n"


def test_handlers_come_back_and_what_was_ignored_stays_ignored():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.requested is None
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested == "SIGTERM"
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == (before[0], signal.SIG_IGN)
    finally:
        signal.signal(signal.SIGINT, before[1])


def test_outside_the_main_thread_it_does_nothing():
    outcome = []

    def body() -> None:
        with StopRequest() as stop:
            outcome.append(stop.requested)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert outcome == [None]
