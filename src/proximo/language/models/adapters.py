"""PEFT adapters, which are merged into the model that they belong on."""

import os
import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from proximo.errors import UserError
from proximo.language.models.folders import read_json
from proximo.language.models.loaded_weights import check_adapter
from proximo.language.models.transformers_calls import ADAPTER, explained, quiet

_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "ADAPTION_PROMPT", "CPT")


def base_of(adapter: Path) -> str:
    """The model that the adapter of this `adapter_config.json` belongs on.

    Raises:
        UserError: it names none, or none that is here; it changes no weights; or its weights are of a format that can
            run code.
    """
    if not (adapter.parent / "adapter_model.safetensors").exists():
        raise UserError(
            f"{adapter.parent} has no adapter_model.safetensors; weights are loaded from safetensors only, as other "
            "formats can run code: save the adapter again with safetensors"
        )
    settings = read_json(adapter)
    if (kind := str(settings.get("peft_type", ""))) in _PROMPTS:
        raise UserError(
            f"{adapter.parent} is a {kind} adapter, which puts vectors before a prompt instead of changing weights, "
            "so it can not be merged into its base: use one that can, as LoRA"
        )
    base = settings.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise UserError(f"{adapter} names no base_model_name_or_path: write the folder or hub name of its base there")
    return _here(base, adapter)


def _here(base: str, adapter: Path) -> str:
    """The base's folder on this machine: where it was, or beside the adapter, or in the current folder."""
    last = re.split(r"[\\/]", base.rstrip("\\/"))[-1]
    around = [adapter.parent, *list(adapter.parent.resolve().parents)[:2], Path.cwd()]
    places = [Path(base), *(folder / last for folder in around)]
    if found := [place for place in places if (place / "config.json").is_file() or (place / adapter.name).is_file()]:
        return base if found[0] == places[0] else str(found[0])
    if not (os.path.isabs(base) or "\\" in base or base.startswith(".")):
        return base  # the hub's, or builtin
    raise UserError(
        f"{adapter} names its base {base}, which is not on this machine: write where it is as base_model_name_or_path, "
        f"or put it beside the adapter as {last}"
    )


def tokenizer_of(place: str) -> str:
    """Where the tokenizer of a model is: an adapter's folder without one leaves it to its base.

    Raises:
        UserError: see `base_of`.
    """
    folder = Path(place)
    own = any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json", "tokenizer.model"))
    return place if own or not (folder / ADAPTER).is_file() else base_of(folder / ADAPTER)


def labels_of(adapter: Path) -> int:
    """Outputs of the head that a classifier's adapter brings.

    Raises:
        UserError: it brings none.
    """
    file = adapter.parent / "adapter_model.safetensors"
    with explained(str(adapter.parent), "adapter"), safe_open(file, "pt") as tensors:
        heads = [name for name in tensors.keys() if name.endswith(("score.weight", "classifier.weight"))]  # noqa: SIM118
        heads += [name for name in tensors.keys() if name.endswith("out_proj.weight")]  # noqa: SIM118
        if heads:
            return int(tensors.get_slice(heads[0]).get_shape()[0])
    raise UserError(
        f"the adapter {adapter.parent} has no head with scores, so it is no reward model: train it with "
        "task_type SEQ_CLS"
    )


def merged(model: Any, folder: Path) -> Any:
    """A model with an adapter added into its weights.

    Raises:
        UserError: it can not be loaded, has other weights than an adapter on this model, or can not be merged.
    """
    from peft import PeftModel

    device = str(next(model.parameters()).device)  # peft would read the file onto any GPU that is there
    with explained(str(folder), "adapter"), quiet():  # what peft would warn of is refused
        adapted: Any = PeftModel.from_pretrained(model, str(folder), torch_device=device)
        # Again into the same place: only this says which weights the file lacks and which it holds in vain.
        report = adapted.load_adapter(str(folder), adapted.active_adapter, torch_device=device)
    check_adapter(str(folder), report.missing_keys, report.unexpected_keys)
    if not hasattr(adapted, "merge_and_unload"):
        raise UserError(f"the adapter {folder} can not be merged into its base's weights: use one that can, as LoRA")
    whole = adapted.merge_and_unload()
    whole.requires_grad_(True)  # peft froze the base
    # It is nobody's folder any more: an adapter on it has no base to name.
    whole.name_or_path = whole.config.name_or_path = ""
    return whole
