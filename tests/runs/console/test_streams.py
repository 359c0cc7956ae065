"""Streams of a command are those that it was started with, whatever these answer."""

import sys

from proximo.runs.console.streams import guarded_streams


class Mute:
    """As the streams of Ray's workers: it says nothing of what it has written."""

    def __init__(self):
        self.seen = []

    def write(self, text):
        self.seen.append(text)

    def flush(self):
        pass


def test_a_stream_that_does_not_say_how_much_it_has_written_is_written_to(monkeypatch):
    mute = Mute()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, mute)
    with guarded_streams(goes_on=True) as out:
        print("a", flush=True)
        print("b", file=sys.stderr, flush=True)
    assert out.lost is None
    assert "".join(mute.seen) == "a\nb\n"
