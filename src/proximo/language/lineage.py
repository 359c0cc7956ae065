"""Which weights a stage was made from: one whose model was trained anew is out of date, whatever the names say."""

import hashlib
import json
from pathlib import Path
from typing import Any

from proximo.language.model_folder import read_json
from proximo.runs.errors import UserError
from proximo.runs.files import write_atomically
from proximo.runs.folder import RunFolder
from proximo.runs.opening import Opening

_STARTS = ("model", "policy")
"""Settings that name what a training starts from: under one that is half done, they can not be exchanged."""


def weights_id(folder: Path) -> str:
    """What tells the weights in a folder from any others: 16 hexadecimal digits of their SHA-256; "" if it has none."""
    digest = hashlib.sha256()
    files = sorted(folder.glob("*.safetensors"))
    for path in files:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16] if files else ""


def note_made_from(folder: RunFolder, config: Any) -> None:
    """Write down the weights of each folder that the settings name; of hub names nothing is known."""
    made_from = {place: {"folder": name, "weights": weights} for place, (name, weights) in _models(config).items()}
    write_atomically(folder.made_from, (json.dumps(made_from, indent=1) + "\n").encode())


def trained_anew(folder: RunFolder, config: Any) -> dict[str, str]:
    """Models with other weights now than when the stage was made: by their place in the settings, their folders.

    Raises:
        UserError: what was written down can not be read.
    """
    if not folder.made_from.exists():
        return {}
    before = read_json(folder.made_from)
    return {
        place: name
        for place, (name, weights) in _models(config).items()
        if place in before and before[place].get("weights") != weights
    }


def check_made_from(opening: Opening) -> None:
    """Refuses to go on with a stage, or to take it as done, if a model that it was made from was trained anew.

    Raises:
        UserError: names the model; with `allow_change` a stage that is done is kept, and counts as made from what is
            there now, and one that is not goes on with another reward, but not from another start.
    """
    if not opening.resumed or not (anew := trained_anew(opening.folder, opening.config)):
        return
    other_start = opening.results is None and any(place in _STARTS for place in anew)
    if other_start or not opening.call.allow_change:
        kept = "" if other_start else ", or keep it with --allow-change"
        raise UserError(
            f"{opening.folder.path} was made from another {' and '.join(anew.values())} than there is now, which was "
            f"trained anew: make this stage anew too with --fresh{kept}"
        )
    note_made_from(opening.folder, opening.config)


def _models(config: Any) -> dict[str, tuple[str, str]]:
    """Folder and weights of each model that the settings name, by its place in them."""
    named = {place: getattr(config, place, "") for place in _STARTS}
    named |= {f"rewards {i}": name for i, name in enumerate(getattr(config, "rewards", {}), 1)}
    found = {place: (name, weights_id(Path(name))) for place, name in named.items() if name}
    return {place: (name, weights) for place, (name, weights) in found.items() if weights}
