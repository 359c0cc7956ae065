"""Damaged and hostile files for the loaders: whatever they hold, the answer is a value or one clear sentence."""

import os
import pickle
import sys
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from proximo.errors import UserError

FORBIDDEN = ("pickle.find_class", "os.system", "os.exec", "os.posix_spawn", "subprocess.Popen")
_seen: list[str] = []
_watching = False


def _watch(event, _arguments):
    if _watching and event in FORBIDDEN:
        _seen.append(event)


sys.addaudithook(_watch)


def cases(count):
    """The same cases each time, so that a failure is nobody else's; a quarter of them but in `make test-slow`."""
    count = count if "PROXIMO_ALL_CASES" in os.environ else count // 4
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, derandomize=True, database=None, suppress_health_check=quiet)


@contextmanager
def answered():
    """A value or a `UserError` of at most a few lines; no other error, and nothing is executed."""
    global _watching
    _seen.clear()
    _watching, said = True, "a value"
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.fsync", lambda _: None)  # nobody has to find these files after a loss of power
            yield
    except UserError as error:
        said = str(error).strip()
    finally:
        _watching = False
    assert said
    assert "Traceback" not in said
    assert not _seen, f"a file could run {_seen}"


class Bomb:
    def __reduce__(self):
        import os

        return os.system, ("echo a file ran this >&2",)


junk = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"",
            b"\x00" * 64,
            b"null",
            b"[]",
            b"{}",
            b"[" * 3000,
            b'{"a":' * 3000,
            b"x = " + b"[" * 3000,
            b"1e999",
            b"-" + b"9" * 400,
            b'"\\ud800"',
            b"\xff\xfe",
            b"\xef\xbb\xbf{}",
            b"a" * 5000,
            pickle.dumps(Bomb()),
            pickle.dumps(Bomb(), protocol=0),
            b"PK\x03\x04" + pickle.dumps(Bomb()),
        ]
    ),
)

numbers = st.one_of(
    st.integers(-3, 3),
    st.integers(),
    st.floats(),
    st.sampled_from([10**400, -(2**63), 2**64, float("nan"), float("inf"), -0.0, 1e308]),
)
words = st.one_of(st.text(max_size=12), st.sampled_from(["", " ", "none", "\ud800", "\x00", "../..", "w4 w5", "</s>"]))
scalars = st.one_of(st.none(), st.booleans(), numbers, words)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(words, inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def damaged(draw, whole):
    """A file's bytes with some of them flipped, cut out, doubled or replaced by others."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        stop = min(start + draw(st.integers(0, 30)), len(data))
        deed = draw(st.sampled_from(["flip", "cut", "double", "replace", "end"]))
        if deed == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif deed == "cut":
            del data[start:stop]
        elif deed == "double":
            data[start:start] = data[start:stop]
        elif deed == "replace":
            data[start:stop] = draw(junk)
        else:
            del data[start:]
    return bytes(data)


@st.composite
def retyped(draw, toml):
    """A TOML file in which one line gives something else, or is gone."""
    lines = toml.splitlines()
    i = draw(st.sampled_from([i for i, line in enumerate(lines) if line]))
    name, equals, _ = lines[i].partition(b" = ")
    given = [
        b"5",
        b"-1.5",
        b"nan",
        b"inf",
        b"'x'",
        b"''",
        b"true",
        b"[]",
        b"[1]",
        b"['a', 2]",
        b"{}",
        b"{a = 1}",
        b"[{}]",
    ]
    other = draw(st.sampled_from([*given, b"1979-05-27", b"00:00:00", b"9" * 400, b"'none'", b"[[[]]]"]))
    lines[i] = name + equals + other if equals and draw(st.integers(0, 4)) else b""
    return b"\n".join(lines)


@st.composite
def altered(draw, tree):
    """A JSON tree with one of its values replaced, removed or added to; most of it stays as it was."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(tree)))
        deed = draw(st.integers(0, 5))
        rest = {name: value for name, value in tree.items() if name != key}
        if deed == 0:
            return rest
        if deed == 1:
            return tree | {draw(words): draw(values)}
        return rest | {key: draw(altered(tree[key]))}
    if isinstance(tree, list) and tree and draw(st.booleans()):
        i = draw(st.integers(0, len(tree) - 1))
        return [*tree[:i], draw(altered(tree[i])), *tree[i + 1 :]]
    return draw(values)
