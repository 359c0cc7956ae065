"""Sums, broadcasts and shared errors of real processes; and that nobody else asks torch.distributed."""

import ast
import re
import signal
from pathlib import Path

import pytest
import torch
from ranks import on_ranks

import proximo
from proximo.errors import UserError
from proximo.scale.meeting import current_mesh
from proximo.scale.mesh import TIMEOUT, Mesh

SOURCES = Path(proximo.__file__).parent


@pytest.mark.parametrize("size", [2, 4])
def test_every_rank_sees_the_sums_and_words_of_all(size):
    told = on_ranks(size, "mesh_ranks:collectives")
    ranks = range(size)
    assert [t["who"][:4] for t in told] == [(r, size, r == 0, False) for r in ranks]
    for r, t in enumerate(told):
        assert t["sum"] == [size, 10 * sum(ranks)]
        assert t["gather"] == [[[q, 2 * q]] for q in ranks]
        assert t["broadcast"] == [size - 1] * 2
        assert (t["bytes"], t["none"], t["any"]) == (b"from the first", b"", (True, False))
        assert t["all bytes"] == ([b"x" * q for q in ranks] if r == 0 else [])
        assert t["of the first"] == {"rank": 0}
        assert t["traffic"] == 4000
    for each in zip(*(t["share"] for t in told), strict=True):  # every thing has one rank, and no rank much more
        assert [start for start, _ in each] == [0, *(stop for _, stop in each[:-1])]
        sizes = [stop - start for start, stop in each]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("size", [2, 3, 5])
def test_ranks_of_one_machine_that_keep_each_other_waiting_mix_no_sums_up_and_leave_nothing_behind(size):
    for wrong, large, left, shared in on_ranks(size, "mesh_ranks:hurried", 300):
        assert (wrong, large, left, shared) == ([], True, False, True)


def test_ranks_that_are_out_of_step_are_told_so_and_add_up_nothing():
    for said in on_ranks(3, "mesh_ranks:out_of_step"):
        assert "the ranks are out of step" in said or "one of 3 ranks is gone" in said


def test_an_error_of_one_rank_is_the_error_of_all_and_they_can_go_on():
    told = on_ranks(2, "mesh_ranks:failures")
    of_the_other, total = told[0]
    of_the_other = [(kind, name, re.sub(r" at \S+mesh_ranks\.py:\d+", "", text)) for kind, name, text in of_the_other]
    assert [total, told[1][1]] == [2, 2]
    assert of_the_other == [
        ("user", "UserError", "mend it (on rank 1 of 2)"),
        ("nan", "InvariantError", "not-finite: x (on rank 1 of 2)"),
        ("bug", "UserError", "KeyError: 'k' (on rank 1 of 2)"),
        ("all", "UserError", "all"),
        ("first", "UserError", "rank 0 says no"),
    ]
    assert told[1][0] == told[0][0]
    assert "KeyError: 'k' at " in told[0][0][2][2]


def test_ranks_notice_at_once_that_one_was_killed():
    told = on_ranks(4, "mesh_ranks:killed")
    assert told[1] == -signal.SIGKILL
    for seconds, sentence in (told[0], told[2], told[3]):
        assert seconds < 10
        assert "one of 4 ranks is gone" in sentence
        assert "resumes from the last checkpoint" in sentence


def test_ranks_notice_that_rank_0_was_killed_while_they_waited_for_what_it_does_alone():
    # Its launcher keeps the store, so that nothing else tells them.
    told = on_ranks(4, "mesh_ranks:killed_alone")
    assert told[0] == -signal.SIGKILL
    for seconds, sentence in told[1:]:
        assert seconds < 10
        assert "one of 4 ranks is gone" in sentence


def test_a_rank_that_is_cut_off_while_rank_0_works_alone_gives_up_after_the_time_that_was_set():
    for sentence in on_ranks(2, "mesh_ranks:cut_off", environment={TIMEOUT: "2"}):
        assert "one of 2 ranks is gone, or was not heard of for 2 s" in sentence


def test_the_others_hear_why_a_rank_has_left_in_the_midst_of_what_all_compute():
    told = on_ranks(3, "mesh_ranks:fails_alone")
    assert told[1] == "KeyError('k')"
    for sentence in (told[0], told[2]):
        assert sentence.startswith("rank 1 of 3 failed where all compute together: KeyError: 'k' at ")


def test_a_rank_that_hangs_is_given_up_after_the_time_that_was_set():
    assert 2 <= on_ranks(2, "mesh_ranks:stuck", environment={TIMEOUT: "2"})[0] < 8


@pytest.mark.parametrize("given", ["inf", "nan", "1e300", "1e9", "0", "-1", "soon"])
def test_a_patience_that_is_no_time_is_refused_in_one_sentence(given, monkeypatch):
    monkeypatch.setattr("proximo.scale.meeting._current", None)  # another test may have asked
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", TIMEOUT: given}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=f"{TIMEOUT} = '{given}' must be a number of seconds above 0, of 1,000,000 at"):
        current_mesh()


def test_one_process_alone_needs_nobody(monkeypatch):
    mesh = Mesh()
    assert mesh.alone
    assert mesh.first
    assert (mesh.share(5), mesh.any(True), mesh.broadcast_bytes(b"x"), mesh.gather_bytes(b"x")) == (
        slice(0, 5), True, b"x", [b"x"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="mine"), mesh.together():
        raise ValueError("mine")


def test_only_scale_asks_torch_distributed_and_only_launch_asks_ray():
    places = {"torch.distributed": set(), "ray": set()}
    for file in SOURCES.rglob("*.py"):
        text = file.read_text("utf-8")
        if not re.search(r"\b(distributed|ray)\b", text):
            continue
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("import_module", "__import__"):
                names += [a.value for a in node.args if isinstance(a, ast.Constant)]
            for package, found in places.items():
                if any(n == package or n.startswith(f"{package}.") for n in names):
                    found.add(file.relative_to(SOURCES))
    assert {place.parent.name for place in places["torch.distributed"]} == {"scale"}
    assert places["ray"] == {Path("scale/launch.py")}


def test_ranks_that_would_share_a_gpu_are_refused(monkeypatch):
    mesh = Mesh()
    mesh.size = mesh.local_size = 4
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    mesh.require_own(torch.device("cpu"))
    with pytest.raises(UserError, match="4 ranks of this machine have 2 GPUs, and each needs one of its own"):
        mesh.require_own(torch.device("cuda", 0))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    mesh.require_own(torch.device("cuda", 3))
