"""A clock that a busy machine does not disturb."""

from functools import partial
from itertools import count
from types import SimpleNamespace

from proximo.control.check import explore


def steady(monkeypatch, seconds=1e-4):
    """Environments are looked at by a clock that goes on by so much each time it is read."""
    monkeypatch.setattr(explore, "time", SimpleNamespace(perf_counter=partial(next, count(0.0, seconds))))
