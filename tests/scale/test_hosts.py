"""Several hosts, as network namespaces of one machine: a cable that is pulled for a while, and for good."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import warm
from ranks import on_ranks
from run_ranks import LONG, LONG_OPTIONS

from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics
from proximo.scale.launched import LOST
from proximo.scale.mesh import TIMEOUT

NAMES = tuple(f"proximo-{os.getpid()}-{i}" for i in (0, 1))  # what a killed test has left is in nobody's way
PATIENCE = 10  # seconds that a rank waits for another

RANK = """
import ctypes, os, sys
from proximo.cli.main import main
if ctypes.CDLL(None, use_errno=True).setns(os.open(f"/run/netns/{sys.argv.pop(1)}", os.O_RDONLY), 0):
    sys.exit(os.strerror(ctypes.get_errno()))
sys.exit(main())
"""
"""As `ip netns exec NAME proximo ...`."""


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def hosts():
    """Two hosts with a cable between them."""
    try:
        made = [ip("netns", "add", name).returncode for name in NAMES]
    except FileNotFoundError:
        made = [1]
    if any(made):
        pytest.skip("network namespaces need root and iproute2")
    ip("link", "add", "eth0", "netns", NAMES[0], "type", "veth", "peer", "name", "eth0", "netns", NAMES[1])
    for i, name in enumerate(NAMES):
        ip("-n", name, "addr", "add", f"10.77.0.{i + 1}/24", "dev", "eth0")
        ip("-n", name, "link", "set", "eth0", "up")
        ip("-n", name, "link", "set", "lo", "up")
    yield NAMES
    for name in NAMES:
        ip("netns", "del", name)


def started(folder, port, patience=PATIENCE):
    """The two ranks of a run; the second one's host does not see the folder of the first."""
    processes = []
    for rank, name in enumerate(NAMES):
        variables = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_PORT": port}
        variables |= {
            "MASTER_ADDR": "10.77.0.1",
            "GLOO_SOCKET_IFNAME": "eth0",
            TIMEOUT: patience,
            "OMP_NUM_THREADS": 1,
        }
        here = folder / f"host-{rank}"
        here.mkdir(parents=True)
        command = [sys.executable, "-c", RANK, name, "train", "CartPole-v1", "--run", "run", "--quiet", *LONG_OPTIONS]
        process = warm.Popen(
            command,
            cwd=here,
            env={**os.environ, **{key: str(value) for key, value in variables.items()}},
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
    return processes


@pytest.fixture
def named(hosts):
    """The same two, each of which finds the other by its name, as hosts do."""
    lines = "127.0.0.1 localhost\n" + "".join(f"10.77.0.{i + 1} {name}\n" for i, name in enumerate(hosts))
    places = [Path("/etc/netns") / name for name in hosts]  # `ip netns exec` shows these in the place of /etc
    for place in places:
        place.mkdir(parents=True)
        (place / "hosts").write_text(lines)
    yield hosts
    for place in places:
        shutil.rmtree(place)


def documented():
    """The command for several machines in docs/scaling.md, for one process on each of two."""
    text = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    command = re.search(r"`torchrun (--nnodes 2 [^`]*) HalfCheetah-v5 --run runs/cheetah`", text)[1]
    own = command.replace("--nproc-per-node 4", "--nproc-per-node 1").replace("HOST", NAMES[0])
    assert own.endswith("-m proximo -- train")
    return [sys.executable, "-m", "torch.distributed.run", *own.split(), "CartPole-v1", "--run", "run", "--quiet"]


@pytest.mark.slow
def test_the_documented_command_on_two_hosts_trains_the_run_of_two_ranks_of_one(named, tmp_path):
    processes = []
    for name in named:
        (tmp_path / name).mkdir()
        line = f"hostname {name} && exec {shlex.join([*documented(), *LONG_OPTIONS])}"
        command = ["ip", "netns", "exec", name, "unshare", "--uts", "sh", "-c", line]
        variables = os.environ | {"OMP_NUM_THREADS": "1"}
        processes.append(
            subprocess.Popen(command, cwd=tmp_path / name, env=variables, stderr=subprocess.PIPE, text=True)
        )
    try:
        said = [p.communicate(timeout=300)[1] for p in processes]
        assert [p.returncode for p in processes] == [0, 0], said
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert not (tmp_path / NAMES[1] / "run").exists()
    on_ranks(2, "run_ranks:whole", tmp_path / "whole", "CartPole-v1", LONG)
    apart, _ = load_checkpoint(tmp_path / NAMES[0] / "run" / "checkpoints" / "final")
    whole, _ = load_checkpoint(tmp_path / "whole" / "checkpoints" / "final")
    assert [x for x in whole if x.startswith(("policy/", "optimizer/")) and not apart[x].equal(whole[x])] == []


def said(process, limit):
    """On its standard error, but for what torch says of hosts without names."""
    lines = process.communicate(timeout=limit)[1].splitlines(keepends=True)
    return "".join(line for line in lines if "[c10d]" not in line)


def rows(folder):
    file = folder / "host-0" / "run" / "metrics.jsonl"
    return len(read_metrics(file)) if file.exists() else 0


def wait_for(folder, count, processes):
    limit = time.monotonic() + 90
    while rows(folder) < count:
        assert time.monotonic() < limit, "too few iterations"
        assert all(p.poll() is None for p in processes), [p.communicate()[1] for p in processes]
        time.sleep(0.02)


def pull(out):
    ip("-n", NAMES[1], "link", "set", "eth0", "down" if out else "up")


def end(processes):
    for process in processes:
        process.kill()
        process.wait()


# TCP asks again after pauses that double, so the patience is to be more than twice as long as the cable is out.
@pytest.mark.parametrize(("away", "patience"), [(6, PATIENCE), pytest.param(30, 90, marks=pytest.mark.slow)])
def test_a_cable_that_is_out_for_a_while_changes_nothing(hosts, tmp_path, away, patience):
    processes = started(tmp_path / "while", 29611, patience)
    try:
        wait_for(tmp_path / "while", 4, processes)
        pull(True)
        time.sleep(1)
        before = rows(tmp_path / "while")
        time.sleep(away - 1)
        assert rows(tmp_path / "while") == before, "the cable was not out"
        pull(False)
        assert [said(p, 60 + 2 * patience) for p in processes] == ["", ""]
        assert [p.returncode for p in processes] == [0, 0]
        assert not (tmp_path / "while" / "host-1" / "run").exists()
        on_ranks(2, "run_ranks:whole", tmp_path / "whole", "CartPole-v1", LONG)
        cut, _ = load_checkpoint(tmp_path / "while" / "host-0" / "run" / "checkpoints" / "final")
        whole, _ = load_checkpoint(tmp_path / "whole" / "checkpoints" / "final")
        assert [x for x in whole if x.startswith(("policy/", "optimizer/")) and not cut[x].equal(whole[x])] == []
    finally:
        pull(False)
        end(processes)


def test_a_cable_that_is_out_for_good_ends_all(hosts, tmp_path):
    processes = started(tmp_path / "good", 29612)
    try:
        wait_for(tmp_path / "good", 4, processes)
        pull(True)
        began = time.monotonic()
        told = [said(p, 600) for p in processes]
        assert time.monotonic() - began < 30
        assert [p.returncode for p in processes] == [LOST, LOST]
        assert "one of 2 ranks is gone, or was not heard of for 10 s" in told[0]
    finally:
        pull(False)
        end(processes)
