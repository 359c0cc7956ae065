"""One finished run, and one browser, for all tests of a file."""

import pytest
from browser import chromium

from proximo.cli import main as cli

SMALL = ("--steps", "4096", "--environments", "8", "--rollout-length", "32", "--update.minibatch-size", "64")


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Folders of two finished runs that differ in their seed alone."""
    folder = tmp_path_factory.mktemp("views")
    for seed in (0, 1):
        arguments = ["train", "CartPole-v1", "--quiet", "--seed", str(seed), "--run", str(folder / f"seed-{seed}")]
        assert cli.main([*arguments, *SMALL, "--episodes", "2"]) == 0
    return [folder / "seed-0", folder / "seed-1"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A tab of a real browser."""
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page
