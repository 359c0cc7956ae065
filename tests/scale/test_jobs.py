"""A Ray cluster is joined and left, and jobs are placed, by a stand-in for Ray; test_placed.py asks a real one."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from proximo.scale import jobs
from proximo.scale.launch import joined


class Ray(SimpleNamespace):
    """Does a job when it is waited for, one after the other; `room` CPUs."""

    def __init__(self, *, joined, room=2):
        self.there, self.room, self.left, self.cancelled = joined, room, 0, []
        self.strategies = []
        self.exceptions = SimpleNamespace(RayError=ValueError, RayTaskError=KeyError)

    def is_initialized(self):
        return self.there

    def init(self, **_):
        self.there = True

    def shutdown(self):
        self.there, self.left = False, self.left + 1

    def cluster_resources(self):
        return {"CPU": self.room}

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "the launcher's")

    def remote(self, scheduling_strategy=None, **_):
        self.strategies.append(scheduling_strategy)
        return lambda made: SimpleNamespace(remote=lambda: Actor(made())) if isinstance(made, type) else Job(made)

    def wait(self, waiting, num_returns, timeout):
        print("(raylet) a worker has died")
        return waiting[:num_returns], waiting[num_returns:]

    def get(self, what):
        return what() if callable(what) else what

    def cancel(self, job, *, force):
        self.cancelled.append(job)


class Actor:
    def __init__(self, made):
        self._made = made

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._made, name))


class Job:
    def __init__(self, function):
        self.function = function

    def options(self, name):
        return self

    def remote(self, *given):
        return lambda: self.function(*given)


@pytest.fixture
def ray(request, monkeypatch):
    made = Ray(joined=request.param)
    monkeypatch.setitem(sys.modules, "ray", made)
    monkeypatch.setitem(sys.modules, "ray.train", SimpleNamespace())
    strategies = SimpleNamespace(NodeAffinitySchedulingStrategy=lambda node_id, soft: (node_id, soft))
    monkeypatch.setitem(sys.modules, "ray.util.scheduling_strategies", strategies)
    return made


@pytest.mark.parametrize("ray", [False, True], indirect=True, ids=["nobody has", "the program has"])
def test_a_cluster_that_the_program_has_joined_itself_is_not_left(ray):
    before = ray.there
    with joined(1) as found:
        assert found is ray
        assert ray.there
    assert (ray.there, ray.left) == (before, int(not before))


@pytest.mark.parametrize("ray", [True], indirect=True)
def test_jobs_whose_launcher_fails_are_ended(ray, monkeypatch):
    monkeypatch.setattr(jobs, "stand_in", lambda place: None)
    waiting = iter([("a", 1), ("b", 2)])

    def ended(name, came, lost):
        raise RuntimeError(f"{name} came to {came}")

    with pytest.raises(RuntimeError, match="a came to 10"):
        jobs.run_jobs(lambda told, say: told * 10, lambda: next(waiting, None), lambda *_: None, ended, nullcontext())
    assert len(ray.cancelled) == 1


@pytest.mark.parametrize("ray", [False], indirect=True)
def test_what_ray_prints_is_not_among_what_jobs_come_to(ray, monkeypatch, capsys):
    monkeypatch.setattr(jobs, "stand_in", lambda place: None)
    waiting, came = iter([("a", 1), ("b", 2)]), []
    jobs.run_jobs(
        lambda told, say: told * 10,
        lambda: next(waiting, None),
        lambda *_: None,
        lambda *x: came.append(x),
        nullcontext(),
    )
    assert came == [("a", 10, ""), ("b", 20, "")]
    assert ray.strategies == [("the launcher's", False), None]  # what all talk by stays here; jobs go anywhere
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("(raylet)") == 2
