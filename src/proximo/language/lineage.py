"""Which weights a stage was made from: one whose model was trained anew is out of date, whatever the names say."""

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from proximo.errors import UserError
from proximo.language.models.adapters import base_of
from proximo.language.models.transformers_calls import ADAPTER
from proximo.language.stages import without_label
from proximo.runs.session.opening import Opening
from proximo.runs.storage.files import parse_json, read_error, write_atomically
from proximo.runs.storage.folder import RunFolder

_STARTS = ("model", "policy")
"""Settings that name what a training starts from: under one that is half done, they can not be exchanged."""


def weights_id(folder: Path) -> str:
    """What tells the weights in a folder from any others: 16 hexadecimal digits of their SHA-256; "" if it has none.

    An adapter's are half of a model: those of its base count too.

    Raises:
        UserError: a file can not be read.
    """
    files = sorted(folder.glob("*.safetensors"))
    digest = hashlib.sha256()
    for path in files:
        try:
            status = path.stat()
            digest.update(_sha256(path, status.st_size, status.st_mtime_ns))
        except OSError as error:
            raise read_error(error, path) from error
    if (folder / ADAPTER).is_file():
        digest.update(weights_id(Path(base_of(folder / ADAPTER))).encode())
    return digest.hexdigest()[:16] if files else ""


@lru_cache(maxsize=64)
def _sha256(path: Path, size: int, changed: int) -> bytes:
    """Of a file, read once for as long as size and time of its last change stay."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


def note_made_from(folder: RunFolder, config: Any) -> None:
    """Write down the weights of each folder that the settings name; of hub names nothing is known."""
    _write(folder, {place: {"folder": name, "weights": weights} for place, (name, weights) in _models(config).items()})


def trained_anew(folder: RunFolder, config: Any, *, kept: bool = False) -> dict[str, str]:
    """Models with other weights now than when the stage was made: by their place in the settings, their folders.

    Args:
        folder: of the stage.
        config: its settings.
        kept: those count as the same with which the stage was kept, see `check_made_from`.

    Raises:
        UserError: what was written down, or a model, can not be read.
    """
    before = _read(folder)
    rewards = {was.get("weights") for place, was in before.items() if place not in _STARTS}  # in whatever order

    def same(place: str, weights: str) -> bool:
        made_from = {before[place].get("weights")} if place in _STARTS else rewards
        return weights in made_from or (kept and weights == before[place].get("kept"))

    models = _models(config) if before else {}
    return {p: name for p, (name, weights) in models.items() if p in before and not same(p, weights)}


def digest_of(rows: Iterable[Sequence[int]]) -> str:
    """What tells rows of tokens from any others: 16 hexadecimal digits of their SHA-256."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(array("q", [len(row), *row]).tobytes())
    return digest.hexdigest()[:16]


def check_read(state: Mapping[str, Any], name: str, now: str, *, allowed: bool) -> None:
    """Refuses to go on with rows whose tokens are others than those that a checkpoint was trained on.

    Args:
        state: of the checkpoint.
        name: under which it has their digest; older ones have none.
        now: digest of the rows as they are.
        allowed: whether other rows are meant.

    Raises:
        UserError: they are others.
    """
    if not allowed and state.get(name, now) != now:
        raise UserError(
            "the data are read as other tokens than in the run so far: the file, the tokenizer or its chat template "
            "was changed; bring them back, resume with the new ones by --allow-change (allow_change=True), or start "
            "over with --fresh (fresh=True)"
        )


def check_made_from(opening: Opening) -> None:
    """Refuses to go on with a stage, or to take it as done, if a model that it was made from was trained anew.

    With `allow_change` a stage that is done is kept with what is there now, which does not make it the stage's own; one
    that is not done goes on with another reward, but not from another start.

    Raises:
        UserError: names the model.
    """
    done = opening.results is not None
    anew = trained_anew(opening.folder, opening.config, kept=done) if opening.resumed else {}
    if not anew:
        return
    other_start = not done and any(place in _STARTS for place in anew)
    if other_start or not opening.call.allow_change:
        names = " and ".join(dict.fromkeys(anew.values()))
        kept = "" if other_start else ", or keep it with --allow-change (allow_change=True)"
        raise UserError(
            f"{opening.folder.path} was made from another {names} than there is now, which was retrained: retrain this "
            f"stage too with --fresh (fresh=True){kept}"
        )
    if done:
        now, before = _models(opening.config), _read(opening.folder)
        _write(opening.folder, {p: was | ({"kept": now[p][1]} if p in now else {}) for p, was in before.items()})


def _models(config: Any) -> dict[str, tuple[str, str]]:
    """Folder and weights of each model that the settings name, by its place in them."""
    named = {place: getattr(config, place, "") for place in _STARTS}
    if getattr(config, "stop_at_peak", False):  # a judge that only watches decides nothing
        named["judge"] = config.judge
    named |= {f"rewards {i}": name for i, name in enumerate(getattr(config, "rewards", {}), 1)}
    found = {place: (name, weights_id(Path(without_label(name)[0]))) for place, name in named.items() if name}
    return {place: (name, weights) for place, (name, weights) in found.items() if weights}


def _read(folder: RunFolder) -> dict[str, dict[str, str]]:
    """What was written down, by place; nothing if nothing was."""
    file = folder.made_from
    if not file.exists():
        return {}
    try:
        there = parse_json(file.read_text("utf-8"))
        return {place: dict(was) for place, was in there.items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{file} can not be read ({error}): delete it") from error


def _write(folder: RunFolder, made_from: dict[str, dict[str, str]]) -> None:
    write_atomically(folder.made_from, (json.dumps(made_from, indent=1) + "\n").encode())
