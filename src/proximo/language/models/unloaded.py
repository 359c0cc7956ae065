"""Models whose weights are still in their folder: where they are to be spread over ranks, each reads its own parts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from proximo.language.compute.matmul import use_products
from proximo.language.models.dropout import without_dropout
from proximo.language.models.loading import locate
from proximo.language.models.transformers_calls import ADAPTER, explained, quiet, refuse_remote_code


def unloaded_causal_model(name: str, *, trust_remote_code: bool = False) -> tuple[Any, Path] | None:
    """A causal language model as `load_causal_model` gives it, but with weights on the device `meta`, which holds none.

    Args:
        name: folder or `builtin:smollm2`.
        trust_remote_code: whether Python code in the model's folder may run.

    Returns:
        The model, and the folder of its weights, which lie there as safetensors by the model's own names; None where
        they do not, so that it has to be loaded whole.

    Raises:
        UserError: there is no such model, or it would run code of its own.
    """
    folder = Path(locate(name))
    if not (folder / "config.json").is_file() or (folder / ADAPTER).is_file():
        return None
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    refuse_remote_code(str(folder), name, trust_remote_code)
    with explained(name, "model"), quiet(), _without_weights():
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, trust_remote_code=trust_remote_code)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(str(folder))
    model.tie_weights()
    wanted = {key: list(p.shape) for key, p in model.named_parameters()}
    kept = model.state_dict().keys() - {key for key, _ in model.named_parameters(remove_duplicate=False)}
    there = _shapes(folder)
    if there is None or kept or any(there.get(key) != shape for key, shape in wanted.items()):
        return None
    return use_products(without_dropout(model).eval()), folder


@contextmanager
def _without_weights() -> Iterator[None]:
    """Within, parameters of modules are made on `meta`; buffers, which are computed, are not."""
    register = nn.Module.register_parameter

    def registered(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        register(self, name, None if param is None else nn.Parameter(param.to("meta"), param.requires_grad))

    nn.Module.register_parameter = registered  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def _shapes(folder: Path) -> Mapping[str, list[int]] | None:
    """Shapes by name of all tensors in a folder's files; None where one can not be read, or a name stands twice."""
    found: dict[str, list[int]] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(str(file), framework="pt") as tensors:
                for key in tensors.keys():  # noqa: SIM118  it is no mapping
                    if key in found:
                        return None
                    found[key] = list(tensors.get_slice(key).get_shape())
    except (OSError, SafetensorError):
        return None
    return found
