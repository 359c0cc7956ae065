"""`proximo train --launch ray`: real workers, one of them really killed; where Ray is installed (`proximo[ray]`)."""

import inspect
import io
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
from ranks import on_ranks
from run_ranks import LONG, LONG_OPTIONS

from proximo.cli.main import main
from proximo.errors import UserError
from proximo.runs.session.signals import StopRequest
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics
from proximo.scale import launch


def workers():
    """Processes of Ray Train that train."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if b"RayTrainWorker" in (folder / "cmdline").read_bytes():
                yield int(folder.name)
        except OSError:
            continue


def test_a_killed_worker_is_restarted_and_the_run_comes_to_what_it_would_have(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed")
    on_ranks(2, "run_ranks:whole", tmp_path / "whole", "CartPole-v1", LONG)
    folder = tmp_path / "killed"
    command = [sys.executable, "-m", "proximo", "train", "CartPole-v1", "--launch", "ray", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--restarts", "2", "--run", "killed", "--quiet", *LONG_OPTIONS],
        cwd=tmp_path,
        stderr=subprocess.STDOUT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        limit = time.monotonic() + 600  # what hangs fails; a busy machine does not
        while not (folder / "metrics.jsonl").exists() or len(read_metrics(folder / "metrics.jsonl")) < 6:
            assert time.monotonic() < limit, "no iteration was recorded"
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.05)
        os.kill(max(workers()), signal.SIGKILL)
        said = process.communicate(timeout=600)[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, said
    assert "PlacementGroupCleaner" not in said
    (killed, _), (whole, _) = (load_checkpoint(tmp_path / x / "checkpoints" / "final") for x in ("killed", "whole"))
    learnt = [name for name in whole if name.startswith(("policy/", "optimizer/", "best/"))]
    assert learnt
    assert [name for name in learnt if not killed[name].equal(whole[name])] == []
    assert not list(tmp_path.glob(".*.ray"))


def test_without_ray_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["train", "CartPole-v1", "--launch", "ray", "--workers", "2", "--run", str(tmp_path / "x")]
    assert main(given) == 2
    assert "pip install 'ray[train]'" in capsys.readouterr().err


NAMES = {
    "ScalingConfig": ("num_workers", "use_gpu"),
    "RunConfig": ("name", "storage_path", "failure_config"),
    "FailureConfig": ("max_failures",),
    "TorchConfig": ("backend",),
    "TorchTrainer": ("train_loop_per_worker", "train_loop_config", "torch_config", "scaling_config", "run_config"),
}
"""What Ray Train 2.60 calls what it is told here."""


class Actor:
    def __init__(self, made):
        self._made = made

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._made, name))


def until(true):
    limit = time.monotonic() + 600
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.01)


@pytest.fixture
def asked(monkeypatch):
    """What Ray Train is asked for, by a stand-in that takes its names alone and whose workers end with code 7."""
    made = {"fit": lambda answer: answer.tell.remote(7), "cluster": {"CPU": 8.0}}

    def taker(name):
        def take(*given, **named):
            told = dict(zip(NAMES[name], given, strict=False)) | named
            assert told.keys() <= {*NAMES[name]}, f"{name} has no {told.keys() - {*NAMES[name]}}"
            made[name] = told
            return SimpleNamespace(fit=lambda: made["fit"](told["train_loop_config"]["answer"]))

        return take

    def remote(**options):
        made["actor"] = options
        return lambda actor: SimpleNamespace(remote=lambda: Actor(actor()))

    ray = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: made["cluster"],
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "the launcher's"),
        remote=remote,
        get=lambda x: x,
    )
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: (node_id, soft))
    train = SimpleNamespace(**{name: taker(name) for name in ("ScalingConfig", "RunConfig", "FailureConfig")})
    torch = SimpleNamespace(**{name: taker(name) for name in ("TorchConfig", "TorchTrainer")})
    modules = {"ray": ray, "ray.train": train, "ray.train.torch": torch, "ray.util.scheduling_strategies": strategies}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made


def test_ray_train_is_asked_for_as_many_workers_and_restarts_by_its_own_names(asked, tmp_path):
    assert launch.run_ray(3, ["train", "CartPole-v1"], tmp_path / "run", restarts=2) == 7
    assert asked["ScalingConfig"] == {"num_workers": 3, "use_gpu": False}
    assert asked["FailureConfig"] == {"max_failures": 2}
    assert asked["TorchConfig"] == {"backend": "gloo"}
    assert asked["TorchTrainer"]["train_loop_config"]["arguments"] == ["train", "CartPole-v1"]
    assert asked["actor"] == {"num_cpus": 0, "scheduling_strategy": ("the launcher's", False)}  # no other node's loss


@pytest.mark.parametrize(
    ("there", "gpus", "said"),
    [
        ({"CPU": 4.0}, False, ""),
        ({"CPU": 4.0, "GPU": 4.0}, True, ""),
        ({"CPU": 0.0, "GPU": 4.0}, True, ""),
        ({"CPU": 3.0}, False, "has 3 CPUs for 4 workers, so they wait for more"),
        ({"CPU": 8.0, "GPU": 1.0}, False, "has 1 GPU for 4 workers, so each takes a CPU and no GPU"),
        ({"CPU": 2.0, "GPU": 3.0}, False, "it has 2 CPUs, and waits for more"),
    ],
)
def test_it_is_said_in_one_sentence_what_a_cluster_has_too_little_of(asked, tmp_path, capsys, there, gpus, said):
    asked["cluster"] = there
    assert launch.run_ray(4, ["train", "CartPole-v1"], tmp_path / "run") == 7
    assert asked["ScalingConfig"] == {"num_workers": 4, "use_gpu": gpus}
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == bool(said)


def test_a_signal_to_the_launcher_has_the_workers_stop_with_a_checkpoint(asked, tmp_path):
    def fit(answer):
        os.kill(os.getpid(), signal.SIGTERM)
        with StopRequest() as stop, launch._listening(answer):  # as a worker does, in a thread without signals
            until(lambda: stop.requested)
            answer.tell.remote(128 + signal.Signals[stop.requested])

    asked["fit"] = fit
    before = signal.getsignal(signal.SIGTERM)
    assert launch.run_ray(2, ["train", "CartPole-v1"], tmp_path / "run") == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_workers_told_that_were_lost_since_is_no_word_on_those_after_them(asked, tmp_path):
    def fit(answer):
        answer.begin.remote()
        answer.tell.remote(0)
        answer.begin.remote()
        raise RuntimeError("a worker died")

    asked["fit"] = fit
    with pytest.raises(UserError, match=r"Ray Train lost a worker \(a worker died\)"):
        launch.run_ray(2, ["train", "CartPole-v1"], tmp_path / "run", restarts=1)


def test_of_what_rays_cleaner_writes_nothing_is_left():
    seen = io.StringIO()
    stream = launch._WithoutNoise(seen)
    for text in ("one", "\n", "(PlacementGroupCleaner pid=1) no dashboard", "\n", "two", "\n", "\n"):
        assert stream.write(text) == len(text)
    assert seen.getvalue() == "one\ntwo\n\n"


def test_ray_train_has_these_names():
    pytest.importorskip("ray", reason="Ray is not installed")
    strategy = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
    assert {"node_id", "soft"} <= inspect.signature(strategy).parameters.keys()
    for module in ("ray.train", "ray.train.torch"):
        for name, known in NAMES.items():
            if made := getattr(import_module(module), name, None):
                assert {*known} <= inspect.signature(made).parameters.keys()
