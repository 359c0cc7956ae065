"""PEFT adapters, which are merged into the model that they belong on."""

from pathlib import Path
from typing import Any

from proximo.language.loaded_weights import check_adapter
from proximo.language.model_folder import read_json
from proximo.language.transformers_calls import explained, quiet
from proximo.runs.errors import UserError


def base_of(adapter: Path) -> str:
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
