"""Missing and unexpected weights of a folder: `transformers` makes up the former, drops the latter and only warns."""

from collections.abc import Mapping, Sequence
from typing import Any

from proximo.errors import UserError

_SHOWN = 3


def check_whole(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a model whose folder lacks weights. A head that is tied to the embedding is not missing.

    Args:
        name: of the model.
        report: what `from_pretrained` gives with `output_loading_info`.

    Raises:
        UserError: it lacks some.
    """
    _refuse_missing(name, sorted(report["missing_keys"]))


def check_classifier(name: str, report: Mapping[str, Any]) -> None:
    """Refuse a model with weights missing or left over: it would give other scores than whoever trained it saw.

    Args:
        name: see `check_whole`.
        report: see `check_whole`.

    Raises:
        UserError: it has some.
    """
    check_whole(name, report)
    if left := sorted(report["unexpected_keys"]):
        raise UserError(
            f"{name} holds {_named(left)}, which its architecture has no place for, so its scores would be others: "
            "save it as the architecture in its config.json"
        )


def check_body(name: str, report: Mapping[str, Any], prefix: str) -> None:
    """Refuse a model that lacks weights of its body; its head may be new.

    Args:
        name: see `check_whole`.
        report: see `check_whole`.
        prefix: of the body's names.

    Raises:
        UserError: it lacks some.
    """
    _refuse_missing(name, sorted(key for key in report["missing_keys"] if key.startswith(f"{prefix}.")))


def check_encoder(name: str, report: Mapping[str, Any]) -> None:
    """Refuse an encoder whose folder lacks weights. Many lack the pooler, which no token's state goes through.

    Args:
        name: see `check_whole`.
        report: see `check_whole`.

    Raises:
        UserError: it lacks some.
    """
    _refuse_missing(name, sorted(key for key in report["missing_keys"] if "pooler" not in key.split(".")))


def check_adapter(name: str, missing: Sequence[str], unexpected: Sequence[str]) -> None:
    """Refuse an adapter with weights missing or left over: it would not do what was trained.

    Args:
        name: of its folder.
        missing: weights that the model expects and the file lacks.
        unexpected: weights that the file holds and the model has no place for.

    Raises:
        UserError: there are some.
    """
    lacks = f"lacks {_named(sorted(missing))}" if missing else ""
    holds = f"holds {_named(sorted(unexpected))} in vain" if unexpected else ""
    if lacks or holds:
        raise UserError(
            f"the adapter {name} does not fit its base: it {' and '.join(filter(None, (lacks, holds)))}; write the "
            "model that it was trained on into its adapter_config.json as base_model_name_or_path"
        )


def _refuse_missing(name: str, missing: Sequence[str]) -> None:
    if missing:
        raise UserError(f"{name} lacks {_named(missing)}, which would be random: save the whole model there")


def _named(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more
