"""The command line in an empty folder, and a run that it has finished."""

import pytest
from command_lines import HERE, SMALL

from proximo.cli import main as cli


@pytest.fixture
def prompt(tmp_path, monkeypatch, capfd):
    """Calls the command in an empty folder; returns its exit code, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(HERE)

    def call(*arguments):
        try:
            code = cli.main([str(a) for a in arguments])
        except SystemExit as error:  # the parser's own
            code = error.code
        return code, *capfd.readouterr()

    return call


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert cli.main(["train", "CartPole-v1", "--quiet", "--run", str(folder), *SMALL]) == 0
    return folder
