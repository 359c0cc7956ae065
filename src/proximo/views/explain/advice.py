"""Which findings propose to change a setting, by what their remedies and pages say."""

import re
from collections.abc import Mapping
from functools import cache

from proximo.runs.health.codes import CODES, Code

_FIRST = "What to change first"
_NAMES = re.compile(r"\b[a-z]+(?:[._][a-z]+)+\b")
"""Settings in a remedy: dotted, or of several words. One plain word may be just a word."""
_OPTIONS = re.compile(r"--([a-z][a-z.-]*)")


def findings_on(setting: str) -> list[Code]:
    """Findings whose advice names a setting.

    Args:
        setting: dotted name.
    """
    last = setting.rpartition(".")[2]
    return [CODES[number] for number, names in _advice().items() if setting in names or last in names]


@cache
def _advice() -> Mapping[str, frozenset[str]]:
    """By number, what the finding's remedy and page name."""
    return {number: frozenset(_named(code)) for number, code in CODES.items()}


def _named(code: Code) -> set[str]:
    page = code.text.partition(_FIRST)[2]
    options = (option.replace("-", "_").replace(".no_", ".") for option in _OPTIONS.findall(page))
    return {*_NAMES.findall(code.remedy), *options}
