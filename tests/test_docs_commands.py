"""Each block of README.md and docs/ is code, commands or marked as output; the command line takes each command."""

import re
import shlex

import pytest
import tyro
from pages import DOCS, blocks

from proximo.cli.main import main
from proximo.control import distill
from proximo.control.config import TrainConfig

PAGES = ("../README.md", "../CONTRIBUTING.md", *sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")))
OTHERS = ("pip", "make", "python", "pytest", "cat", "env")
"""Commands that are not ours, of blocks that show no output."""


class Taken(BaseException):
    """The command line has read all options, and would begin."""


@pytest.fixture
def take(monkeypatch, tmp_path):
    """Gives a command line to the real parser, up to where it would begin; ends badly where it is refused."""
    read = tyro.cli

    def reads(*given, **how):
        found = read(*given, **how)
        if how.get("return_unknown_args"):
            return found
        raise Taken

    monkeypatch.setattr(tyro, "cli", reads)
    monkeypatch.setattr(distill, "student_settings", lambda *words: distill_base())
    monkeypatch.chdir(tmp_path)
    (toml,) = blocks("rlhf.md", "toml")
    (tmp_path / "my.toml").write_text(toml, "utf-8")

    def takes(line):
        words = shlex.split(line.partition(" > ")[0], comments=True)
        try:
            return main(words[1:]) == 0
        except Taken:
            return True
        except SystemExit as end:  # of --help
            return not end.code

    return takes


def distill_base():
    """Settings of a student, without its teacher's run."""
    from proximo.cli.call import Algorithm

    return Algorithm("distill").of(TrainConfig())


def lines(block):
    """Of a shell block, those that go on joined."""
    return [line for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def shown(page):
    """Commands of a page: those of its blocks, and those with options of its sentences."""
    for kind in ("", "text", "bash"):
        for block in blocks(page, kind):
            yield from (line.removeprefix("$ ") for line in lines(block) if re.match(r"(\$ )?proximo ", line))
    prose = re.sub(r"^```.*?^```$", "", (DOCS / page).read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for span in re.findall(r"`(proximo [^`]* --[^`]*)`", prose):
        if not re.search(r"\.\.\.|[|\[]", span):
            yield re.sub(r"(?<=--)(\w+) [NS]\b", r"\1 1", " ".join(span.split()))


COMMANDS = sorted({(page, line) for page in PAGES for line in shown(page)})


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[line.partition("#")[0].strip() for _, line in COMMANDS])
def test_a_command_that_a_page_shows_is_taken(page, line, take, capsys):
    assert take(line), capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["proximo report runs/a --outt x", "proximo raport runs/a", "proximo train A --step 1"]
)
def test_a_command_that_there_is_not_is_seen(line, take):
    assert not take(line)


@pytest.mark.parametrize("page", PAGES)
def test_a_block_of_no_language_holds_commands_alone_and_their_files_are_there(page):
    """What a command prints, and what a file holds, is marked `text`."""
    commands = [block for block in blocks(page) if not block.startswith("--")]  # options alone: migrating-from-trl.md
    for line in (line for block in commands for line in lines(block)):
        words = shlex.split(line, comments=True)
        assert words[0] in ("proximo", *OTHERS), f"{line!r} is no command: mark the block as text"
        for script in (word for word in words if word.startswith("benchmarks/")):
            assert (DOCS.parent / script).is_file(), f"there is no {script}"


def test_every_kind_of_block_is_known():
    texts = [(DOCS / page).read_text("utf-8") for page in PAGES]
    kinds = {kind for text in texts for kind, _ in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)}
    assert kinds <= {"", "python", "toml", "text", "bash", "c"}, "no test reads blocks of the others"
