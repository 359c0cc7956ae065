"""Which weights a stage was made from: one whose model was trained anew is out of date, whatever the names say."""

import hashlib
import json
from pathlib import Path
from typing import Any

from proximo.runs.errors import UserError
from proximo.runs.files import parse_json, write_atomically
from proximo.runs.folder import RunFolder
from proximo.runs.opening import Opening, read_results

WEIGHTS = "weights"
"""In the `results.json` of a stage: what tells the weights that it wrote from any others."""


def weights_id(folder: Path) -> str:
    """What tells the weights in a folder from any others: 16 hexadecimal digits of their SHA-256."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def check_made_from(opening: Opening) -> None:
    """Refuses to go on with a stage, or to take it as done, if a model that it was made from was trained anew.

    Raises:
        UserError: names the model; with `allow_change` the stage is kept, and counts as made from what is there now.
    """
    if not opening.resumed or not opening.folder.made_from.exists():
        return
    before, now = _read(opening.folder.made_from), _models(opening.config)
    anew = [name for name, weights in now.items() if before.get(name, weights) != weights]
    if not anew:
        return
    if not opening.call.allow_change:
        raise UserError(
            f"{opening.folder.path} was made from another {' and '.join(anew)} than there is now, which was trained "
            "anew: make this stage anew too with --fresh, or keep it as it is with --allow-change"
        )
    note_made_from(opening.folder, opening.config)


def note_made_from(folder: RunFolder, config: Any) -> None:
    """Write down what a stage is being made from; models that no stage wrote are left out."""
    write_atomically(folder.made_from, (json.dumps(_models(config), indent=1) + "\n").encode())


def _models(config: Any) -> dict[str, str]:
    """The weights behind each model that the settings name, as far as a stage wrote them."""
    names = [getattr(config, name, "") for name in ("model", "policy")] + list(getattr(config, "rewards", {}))
    found = {name: (read_results(Path(name) / "results.json") or {}).get(WEIGHTS) for name in names if name}
    return {name: weights for name, weights in found.items() if weights}


def _read(file: Path) -> dict[str, str]:
    try:
        return dict(parse_json(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} can not be read ({error}): delete it") from error
