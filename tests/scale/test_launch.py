"""`proximo train --ranks N`: real processes, really killed; and what is typed wrongly."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm
from ranks import on_ranks
from run_ranks import LONG, LONG_OPTIONS
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from proximo.cli.main import main
from proximo.cli.options import without
from proximo.control import trainer
from proximo.control.trainer import Trainer
from proximo.errors import UserError
from proximo.runs.storage.checkpoint import load_checkpoint
from proximo.runs.storage.metrics import read_metrics
from proximo.scale import meeting
from proximo.scale.launch import _logs, _what_was_lost
from proximo.scale.launched import ANSWER, BROKEN, LOST, ended, told_beside

LAUNCHER = [sys.executable, str(Path(warm.__file__).with_name("launching.py"))]
ASKED = ["train", "CartPole-v1", "--ranks", "2", "--quiet"]


def killed_in(folder, rows, *options):
    """Start a run and kill rank 1 once so many iterations are recorded: seconds to the launcher's end, code, words."""

    def kill(_):
        os.kill(int((folder.parent / "rank-1").read_text()), signal.SIGKILL)

    return disturbed(folder, recorded(folder, rows), kill, *ASKED, *LONG_OPTIONS, *options)


def recorded(folder, rows):
    """Whether so many iterations are, to be asked."""
    file = folder / "metrics.jsonl"
    return lambda: file.exists() and len(read_metrics(file)) >= rows


def disturbed(folder, when, how, *asked, **variables):
    """Start a run and disturb it once it is time to; as `killed_in`."""
    command = [*LAUNCHER, str(folder.parent), *asked, "--run", str(folder)]
    process = warm.Popen(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True)
    try:
        limit = time.monotonic() + 300  # what hangs fails; a busy machine does not
        while not when():
            assert time.monotonic() < limit, "it did not come so far"
            time.sleep(0.02)
        how(process)
        started = time.monotonic()
        said = process.communicate(timeout=300)[1]
        return time.monotonic() - started, process.returncode, said
    finally:
        process.kill()
        process.wait()


def test_a_killed_rank_ends_all_with_one_sentence_and_the_run_comes_to_what_it_would_have(tmp_path):
    seconds, code, said = killed_in(tmp_path / "killed", 6)
    assert seconds < 30
    assert code == 2
    assert said.count("proximo:") == 1
    assert "rank 1 of 2 was killed by SIGKILL" in said
    assert "the same command resumes" in said
    rows = len(read_metrics(tmp_path / "killed" / "metrics.jsonl"))
    _, code, said = killed_in(tmp_path / "killed", rows + 4, "--restarts", "1")
    assert (code, said) == (0, "")
    on_ranks(2, "run_ranks:whole", tmp_path / "whole", "CartPole-v1", LONG)
    (killed, _), (whole, _) = (
        load_checkpoint(tmp_path / name / "checkpoints" / "final") for name in ("killed", "whole")
    )
    learnt = [name for name in whole if name.startswith(("policy/", "optimizer/", "best/"))]
    assert learnt
    assert [name for name in learnt if not killed[name].equal(whole[name])] == []


def test_what_is_to_be_known_of_a_run_is_said_once(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(subprocess_handler, "Popen", warm.Popen)
    asked = ["train", "CartPole-v1", "--quiet", "--run", str(tmp_path / "x"), *LONG_OPTIONS]
    assert main([*asked, "--stop-at", "1024"]) == 0
    assert capfd.readouterr().err == ""
    assert main([*asked, "--stop-at", "2048", "--ranks", "2"]) == 0
    said = capfd.readouterr().err
    assert said.count("2 ranks go on where another number of them was") == said.count("\n") == 1


def test_a_signal_to_the_launcher_stops_all_with_a_checkpoint_or_says_that_there_is_none(tmp_path):
    def stop(process):
        process.send_signal(signal.SIGTERM)

    _, code, said = disturbed(tmp_path / "run", recorded(tmp_path / "run", 4), stop, *ASKED, *LONG_OPTIONS)
    assert (code, said) == (128 + signal.SIGTERM, "")
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    (newest,) = (tmp_path / "run" / "checkpoints").glob(f"step-*{rows[-1]['step']}")
    load_checkpoint(newest)
    # An iteration that the ranks can not end in the time that they are given.
    size = ["--environments", "4", "--rollout-length", "1000000", "--steps", "8000000"]
    size += ["--update.minibatch-size", "4000000"]
    variables = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "1", "TELLS": str(tmp_path / "stepped")}
    variables["PYTHONPATH"] = os.pathsep.join(sys.path)
    asked = ["train", "run_ranks:Tells", *ASKED[2:], *size]
    _, code, said = disturbed(tmp_path / "long", (tmp_path / "stepped").exists, stop, *asked, **variables)
    assert code == 128 + signal.SIGTERM
    assert said.count("proximo:") == 1
    assert "SIGTERM ended the ranks before they had saved: the same command resumes" in said
    assert "an iteration that goes on for more than 1 s is not waited for" in said


def running(parent):
    """Numbers of the processes that it has started and that have not ended."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, number = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state != "Z" and (parent is None or int(number) == parent):
            found.add(int(folder.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="the system can not end processes with their parent")
def test_ranks_end_with_a_launcher_that_is_killed(tmp_path):
    # Not warm: there somebody else is a rank's parent. Without a checkpoint ranks would not ask for their launcher.
    endless = [*LONG_OPTIONS, "--steps", "1e9", "--checkpoint-every", "1e9"]
    process = subprocess.Popen([sys.executable, "-m", "proximo", *ASKED, "--run", str(tmp_path / "run"), *endless])
    try:
        while not (tmp_path / "run" / "metrics.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.02)
        ranks = running(process.pid)
        assert len(ranks) == 2
    finally:
        process.kill()
        process.wait()
    limit = time.monotonic() + 600  # what hangs fails; a busy machine does not
    try:
        while ranks & running(None):
            assert time.monotonic() < limit, "ranks go on without their launcher"
            time.sleep(0.02)
    finally:
        for rank in ranks & running(None):
            os.kill(rank, signal.SIGKILL)


@pytest.fixture
def rank_1(tmp_path, monkeypatch):
    """This process is rank 1 of 2 of our own launcher; where that is told of the end."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", ANSWER: str(tmp_path / "code")}.items():
        monkeypatch.setenv(name, value)
    return tmp_path / "code"


def test_a_rank_that_fails_alone_says_why_and_its_launcher_names_it(rank_1, capfd):
    assert ended(BROKEN, "rank 1 of 2 failed: memory ran out") == BROKEN  # not 0, which a launcher takes for a good end
    assert ended(LOST, "one of 2 ranks is gone") == LOST
    assert ended(LOST, "another one, which missed that one") == LOST
    assert capfd.readouterr().err == "proximo: rank 1 of 2 failed: memory ran out\n"
    assert not rank_1.exists()
    assert told_beside(rank_1).read_text() == "one of 2 ranks is gone"
    said = _what_was_lost({0: Failed(LOST, 5), 1: Failed(BROKEN, 5)}, 2, "one of 2 ranks is gone")
    assert f"rank 1 of 2 ended with exit code {BROKEN}, and the others" in said


@dataclass
class Failed:
    """What torchrun notices of a rank."""

    exitcode: int
    timestamp: int


@pytest.mark.parametrize(
    ("failures", "named"),
    [
        ({0: Failed(LOST, 5), 1: Failed(-9, 5)}, "rank 1 of 2 was killed by SIGKILL (the system"),  # seen at once
        (
            {1: Failed(-9, 5), 0: Failed(-9, 35)},
            "rank 1 of 2 was killed by SIGKILL (the system",
        ),  # 0 did not hear of it
        ({0: Failed(LOST, 5), 1: Failed(-9, 35)}, "not heard of for 5 s; rank 1 did not end within 30 s"),
        ({0: Failed(LOST, 5), 1: Failed(LOST, 5)}, "not heard of for 5 s"),
        ({1: Failed(LOST, 5), 0: Failed(-15, 5)}, "not heard of for 5 s"),
        ({0: Failed(-15, 5), 1: Failed(1, 5)}, "rank 1 of 2 ended with exit code 1"),
        ({0: Failed(LOST, 5), 1: Failed(-11, 7)}, "rank 1 of 2 was killed by SIGSEGV"),
    ],
)
def test_who_was_lost_first_is_named_or_what_those_say_that_missed_it(failures, named):
    assert named in _what_was_lost(failures, 2, "not heard of for 5 s")


@pytest.mark.slow  # torchrun waits for half a minute
def test_a_rank_that_hangs_is_not_said_to_have_been_killed_by_the_system(tmp_path):
    def stop(_):
        os.kill(int((tmp_path / "rank-1").read_text()), signal.SIGSTOP)

    begun, asked = recorded(tmp_path / "run", 2), [*ASKED, *LONG_OPTIONS]
    _, code, said = disturbed(tmp_path / "run", begun, stop, *asked, PROXIMO_RANK_TIMEOUT="3")
    assert code == 2
    assert said.count("proximo:") == 1
    assert "one of 2 ranks is gone, or was not heard of for 3 s (PROXIMO_RANK_TIMEOUT sets that)" in said
    assert "rank 1 did not end within 30 s of being told to, and was killed" in said
    assert "memory runs out" not in said


def test_a_rank_whose_sentence_rank_0_does_not_say_is_the_one_that_is_named(rank_1, capfd, monkeypatch):
    monkeypatch.setattr(meeting, "_current", SimpleNamespace(alone=False))
    monkeypatch.setattr(meeting, "said_by_the_first", lambda sentence: sentence == "both say so")
    assert ended(2, "both say so") == 0
    assert capfd.readouterr().err == ""
    assert ended(2, "the simulator is not there") == BROKEN
    assert capfd.readouterr().err == "proximo: rank 1: the simulator is not there\n"


def test_before_ranks_have_met_one_of_each_machine_says_what_it_lacks(capfd, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local in enumerate("0101"):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("LOCAL_RANK", local)
        assert main(["nonsense"]) == 2
    said = [line.partition("there is no verb")[0] for line in capfd.readouterr().err.splitlines()]
    assert said == ["proximo: ", "proximo: rank 2: "]


def test_a_rank_that_can_not_go_on_alone_is_named_beside_its_words(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(subprocess_handler, "Popen", warm.Popen)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    asked = [*ASKED, *LONG_OPTIONS, "--algorithm", "run_ranks:Refusing", "--run", str(tmp_path / "x")]
    assert main(asked) == 2
    said = capfd.readouterr().err
    # Of rank 0, which hears it as it waits for rank 1; or of rank 1, where torchrun is slow to end it.
    assert "rank 1 of 2 failed where all compute together: the table of rank 1 is not there" in said or (
        "proximo: rank 1: the table of rank 1 is not there" in said
    )
    assert "exit code 75" not in said
    assert "rank 0" not in said


def test_what_an_earlier_attempt_told_is_no_word_on_a_later_one(tmp_path):
    told = [tmp_path / "code", told_beside(tmp_path / "code")]
    logs = _logs(str(tmp_path / "logs"), *told)
    for attempt in ("0", "1"):
        logs.reify({0: {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": attempt}})
        assert not any(file.exists() for file in told)
        for file in told:
            file.write_text("2")


def test_ranks_of_torchrun_that_a_signal_stopped_are_not_started_anew(monkeypatch):
    code = 128 + signal.SIGTERM
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert ended(code) == code
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (ended(code), ended(2), ended(LOST)) == (0, 2, LOST)
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "0")
    assert ended(code) == code


def test_what_a_callback_of_a_rank_starts_has_no_word_on_the_end_of_the_run(rank_1, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    assert main(["presets"]) == 2
    assert "where a rank itself starts it, leave RANK out of its environment" in capsys.readouterr().err
    monkeypatch.setenv(ANSWER, str(rank_1))
    monkeypatch.delenv("RANK")
    assert main(["presets"]) == 0
    assert ended(0) == 0  # of a training, the same
    assert not rank_1.exists()


def test_what_all_ranks_refuse_is_said_once_and_nothing_is_left_behind(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(subprocess_handler, "Popen", warm.Popen)
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    assert main(["train", "CartPole-v1", "--ranks", "2", "--environments", "1", "--run", str(tmp_path / "x")]) == 2
    said = capfd.readouterr().err
    assert said.count("2 ranks can not share environments = 1") == 1
    assert len(said.splitlines()) == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


@pytest.fixture
def six_of_many(monkeypatch):
    """A process that may use six CPUs of a large machine, as SLURM gives them."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)


def test_ranks_share_the_cpus_that_they_may_use(six_of_many, tmp_path, monkeypatch):
    threads = set()

    class Noted(warm.Popen):
        def __init__(self, *arguments, **options):
            threads.add(options["env"]["OMP_NUM_THREADS"])
            super().__init__(*arguments, **options)

    monkeypatch.setattr(subprocess_handler, "Popen", Noted)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert main(["train", "CartPole-v1", "--ranks", "2", "--environments", "1", "--run", str(tmp_path / "x")]) == 2
    assert threads == {"3"}


def test_environments_of_a_rank_take_its_share_of_the_cpus(six_of_many, tmp_path, monkeypatch):
    def make(*_, threads, **__):
        raise UserError(f"{threads} threads")

    monkeypatch.setattr(trainer, "make_environments", make)
    ranks = SimpleNamespace(alone=False, size=4, local_size=2, share=lambda count: slice(0, count))
    asked = Trainer("CartPole-v1", run=str(tmp_path / "x"))
    asked._mesh = ranks
    with pytest.raises(UserError, match="3 threads"), ExitStack() as stack:
        asked._make(stack)


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--ranks", "0"], "ranks = 0"),
        (["--ranks", "2", "--seeds", "0", "1"], "--seeds several seeds"),
        (["--launch", "ray"], "--launch ray --workers 4"),
        (["--launch", "ray", "--workers", "2", "--seeds", "0..3"], "--seeds several seeds"),
        (["--launch", "ray", "--seeds", "0..3", "--parallel", "2"], "leave --parallel away"),
        (["--launch", "ray", "--seeds", "0..3", "--video-every", "100"], "trains nothing with --launch ray"),
        (["--seeds", "3..0"], "give the smaller one first"),
        (["--seeds", "0..1", "--restarts", "2"], "give --ranks too"),
        (["--workers", "2"], "--launch ray --workers 4"),
        (["--restarts", "2"], "give --ranks too"),
        (["--nproc-per-node", "2"], "--ranks"),
        (["--nnodes", "2"], "torchrun takes it"),
    ],
)
def test_what_can_not_be_meant_is_answered_in_one_sentence(options, answer, capsys):
    assert main(["train", "CartPole-v1", *options]) == 2
    said = capsys.readouterr().err
    assert answer in said
    assert said.count("\n") == 1


def test_within_ranks_other_verbs_and_more_ranks_are_refused(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["report", "runs/x"]) == 2
    assert "`proximo report` is for one process, and a launcher has started it 3 times" in capsys.readouterr().err
    assert main(["--", "train", "CartPole-v1", "--ranks", "2"]) == 2  # torchrun needs -- where --run is given
    assert "a launcher has started 3 ranks already" in capsys.readouterr().err


def test_the_ranks_get_the_command_without_what_was_for_their_launcher():
    given = ["X", "--ranks", "2", "--steps=5", "--restarts=1", "--run", "a", "--restarts", "3", "--quiet"]
    assert without(given, ("ranks", "restarts")) == ["X", "--steps=5", "--run", "a", "--quiet"]
