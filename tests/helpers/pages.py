"""What the pages in docs/ show."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, kind=""):
    """The code blocks of one kind: toml, python, or "" for none."""
    every = re.findall(r"^```(\w*)\n(.*?)^```$", (DOCS / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [text for name, text in every if name == kind]


def shown_files(block):
    """`NAME, NAME: remark` and indented rows -> the rows of each file."""
    files, names = {}, []
    for line in block.splitlines():
        if line.startswith("  "):
            for name in names:
                files.setdefault(name, []).append(line.strip())
        else:
            names = line.partition(":")[0].split(", ")
    return files
