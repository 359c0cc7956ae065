"""Calls of `transformers`: its errors as sentences, its bars and warnings held back, its models' own code refused."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from safetensors import SafetensorError

from proximo.errors import UserError
from proximo.language.config import BUILTIN

ADAPTER = "adapter_config.json"
"""By this file a folder is a PEFT adapter."""

_GENERATION = "transformers.generation.configuration_utils"
_HUB_NAME = re.compile(r"\w[\w.-]*(/[\w.-]+)?")  # owner/name; older models have no owner


def refuse_remote_code(place: str, name: str, trusted: bool) -> None:
    """Refuse a model that only Python code in its folder can make.

    Where `transformers` has the architecture itself, it takes its own and leaves that code alone unless it is trusted.

    Raises:
        UserError: it needs such code.
    """
    if trusted:
        return
    from transformers import CONFIG_MAPPING
    from transformers.configuration_utils import PretrainedConfig

    with explained(name, "model"):
        settings, _ = PretrainedConfig.get_config_dict(place)
    if "auto_map" in settings and settings.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"{name} needs Python code of its own (auto_map in its config.json), which is refused unless asked for: "
            "read that code, then set trust_remote_code"
        )


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """`transformers` errors are pages: the first sentence, and what to do."""
    adapter = (Path(name) / ADAPTER).is_file()
    if Path(name).is_dir() and not adapter and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} holds no model (no config.json): check the path, or finish the stage that writes it")
    here = Path(name).exists()
    if not here and not name.startswith(BUILTIN) and not _HUB_NAME.fullmatch(name):
        raise UserError(f"there is no folder {name}: check the path, which counts from the folder you are in")
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, TypeError, SafetensorError) as error:
        text = str(error)
        if "safetensors" in text and ("no file named" in text or "does not appear to have" in text):
            raise UserError(
                f"{name} has no model.safetensors; weights are loaded from safetensors only, as other formats can run "
                "code: save it again with safetensors"
            ) from error
        if "trust_remote_code" in text:
            raise UserError(
                f"the {what} of {name} needs Python code of its own, which is refused unless asked for: read that "
                "code, then set trust_remote_code"
            ) from error
        first = text.strip().split("\n")[0].rstrip(".")
        if any(frame.f_globals.get("__name__") == _GENERATION for frame, _ in walk_tb(error.__traceback__)):
            raise UserError(
                f"cannot load the {what} {name}: its generation_config.json is refused ({first}): change that file, or "
                "take it away"
            ) from error
        elsewhere = "" if here or name.startswith(BUILTIN) else ", which is no folder here"
        raise UserError(
            f"cannot load the {what} {name}{elsewhere} ({first}): check the folder or the hub name"
        ) from error


@contextmanager
def no_bars() -> Iterator[None]:
    """Loading and saving take a second: their progress bars would only break the lines of ours."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, for calls whose outcome we judge ourselves."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
