"""The vocabulary of a GGUF file: what llama.cpp needs to read and write the same tokens.

llama.cpp knows byte-level BPE by the name of its pre-tokenizer alone, so only those that it has are written.
"""

import json
from typing import Any

from proximo.errors import UserError
from proximo.language.models.folders import generation_stops

_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, list[dict[str, Any]]] = {
    "gpt-2": [_BYTES],
    "smollm": [{"type": "Digits", "individual_digits": True}, _BYTES],
    "llama-bpe": [
        {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False},
        _BYTES | {"use_regex": False},
    ],
}
"""How `tokenizers` writes what llama.cpp calls by these names (`llm_tokenizer_bpe` in its llama-vocab.cpp)."""
_SPECIAL = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
_STOPS = ("eos", "eot", "eom")
"""llama.cpp has a name for three tokens that end a text."""


def add_tokens(writer: Any, tokenizer: Any, model: Any) -> None:
    """Put vocabulary, merges, special tokens and chat template into a file that is being written.

    Args:
        writer: `gguf.GGUFWriter`.
        tokenizer: of `transformers`.
        model: whose embedding the vocabulary fills, and whose generation settings say what ends a text.

    Raises:
        UserError: llama.cpp has no such tokenizer.
    """
    import gguf

    inner = json.loads(tokenizer.backend_tokenizer.to_str()) if tokenizer.is_fast else {"model": {}}
    pre = _pre_tokenizer(inner)
    size = int(model.get_input_embeddings().weight.shape[0])
    texts = [f"[PAD{i}]" for i in range(size)]  # of rows of the embedding that no token has
    types = [gguf.TokenType.UNUSED] * size
    for text, index in inner["model"]["vocab"].items():
        texts[index], types[index] = text, gguf.TokenType.NORMAL
    for added in inner["added_tokens"]:
        special = added["special"]
        texts[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(texts)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) if isinstance(pair, list) else pair for pair in inner["model"]["merges"]])
    first, last = _around(tokenizer)
    writer.add_add_bos_token(first)
    writer.add_add_eos_token(last)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in _SPECIAL} | _stops(tokenizer, model)
    for name, index in ids.items():
        if index is not None:
            getattr(writer, f"add_{name}_token_id")(index)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _pre_tokenizer(inner: dict[str, Any]) -> str:
    """llama.cpp's name of how a text is cut before pairs are merged.

    Raises:
        UserError: it has none.
    """
    model, before = inner["model"], inner.get("pre_tokenizer") or {}
    if model.get("type") != "BPE":
        raise UserError(_refused(f"is of the kind {model.get('type') or 'that is written in Python'}"))
    steps = before.get("pretokenizers", [before])
    found = [{key: x for key, x in step.items() if key != "trim_offsets"} for step in steps]
    name = next((name for name, known in PRE_TOKENIZERS.items() if known == found), None)
    if name is None or inner.get("normalizer") is not None:
        raise UserError(_refused(f"cuts texts in a way that is not {', '.join(PRE_TOKENIZERS)}"))
    # llama.cpp takes a word that is a token whole under this name, and under no other.
    if bool(model.get("ignore_merges")) != (name == "llama-bpe") or model.get("dropout"):
        raise UserError(_refused("merges pairs in another way than llama.cpp"))
    if not model["merges"]:
        raise UserError(_refused("merges no pairs"))
    if odd := next((x for x in inner["added_tokens"] if x["lstrip"] or x["rstrip"] or x["single_word"]), None):
        raise UserError(_refused(f"has a token that looks at what stands beside it ({odd['content']})"))
    return name


def _refused(why: str) -> str:
    return f"GGUF is written of byte-level BPE that llama.cpp has, and this tokenizer {why}: use --to transformers"


def _around(tokenizer: Any) -> tuple[bool, bool]:
    """Whether a text is begun with BOS, and ended with EOS.

    Raises:
        UserError: something else is put around it.
    """
    plain, put = (tokenizer("a", add_special_tokens=special).input_ids for special in (False, True))
    for first in (False, True):
        for last in (False, True):
            if put == [tokenizer.bos_token_id] * first + plain + [tokenizer.eos_token_id] * last:
                return first, last
    raise UserError(_refused("puts other tokens than BOS and EOS around a text"))


def _stops(tokenizer: Any, model: Any) -> dict[str, int]:
    """What ends a text, by llama.cpp's names.

    Raises:
        UserError: there are more than it has names.
    """
    ends = [x for x in dict.fromkeys([tokenizer.eos_token_id, *generation_stops(model)]) if x is not None]
    if len(ends) > len(_STOPS):
        raise UserError(f"llama.cpp knows {len(_STOPS)} tokens that end a text, this model has {len(ends)}: use fewer")
    return dict(zip(_STOPS, ends, strict=False))
