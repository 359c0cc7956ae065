"""`proximo doctor`: a run or an environment, as text or JSON."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import tyro

from proximo.errors import UserError, nearest
from proximo.inspection import Backend, diagnose


@dataclass(frozen=True)
class DoctorArguments:
    """Diagnose a run, or an environment under random actions, and say what to change first.

    The exit code is 1 where something is red.
    """

    what: tyro.conf.Positional[str]
    """Folder of a run (control or language), or an environment as `proximo train` takes it; or the code of a finding,
    whose page is printed: P020."""
    seed: int = 0
    """Of an environment and of the random actions."""
    backend: Backend = "auto"
    """Backend that steps an environment."""
    json: bool = False
    """Print one JSON object instead of text."""


def _page(number: str, *, as_json: bool) -> int:
    """Print what a finding means."""
    from proximo.runs.health.codes import CODES

    if number not in CODES:
        raise UserError(f"there is no finding {number}: did you mean {nearest(number, CODES) or 'P001'}?")
    text = CODES[number].page.read_text("utf-8")
    print(json.dumps({"code": number, "page": text}) if as_json else text, end="\n" if as_json else "")
    return 0


def examine(what: str, seed: int, backend: Backend, *, as_json: bool) -> int:
    """Examine a run if `what` is a folder, else an environment; print the page of a finding's code.

    Returns:
        1 if something is red, else 0.

    Raises:
        UserError: there is neither.
    """
    if not Path(what).is_dir() and (found := re.fullmatch(r"([PE]\d{3})(-[\w-]+)?", what, re.IGNORECASE)):
        return _page(found[1].upper(), as_json=as_json)
    report = diagnose(what, seed=seed, backend=backend)
    print(json.dumps(report.plain()) if as_json else report)
    return int(report.health == "red")
