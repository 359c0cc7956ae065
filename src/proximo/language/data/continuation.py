"""Tokens of a text that follows another, and the text of tokens that do.

Tokenizers of the SentencePiece family (Llama 2, Mistral) put a space before what they take for the beginning of a text,
and take one away from what they decode first. A response is no beginning: it is encoded and decoded behind an anchor,
which is then taken off again. Elsewhere a text's tokens do not depend on what stands before it, and nothing is done.
"""

import re
from collections.abc import Sequence
from typing import Any

_SPACE = "▁"  # as these tokenizers write a space
# The first one is of Unicode's private use: no merge has it. The others are for vocabularies that can not write it.
_ANCHORS = ("\ue000", "\n", "=", "a")
_TURNS = "_proximo_turns"
_LETTER = "a"  # to decode behind: the bytes of an anchor would become one text with a response's broken ones


class Continuation:
    """Encodes and decodes what follows a prompt.

    Args:
        tokenizer: of `transformers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.anchors: list[tuple[str, list[int]]] = []
        self.letter: tuple[str, list[int]] = ("", [])
        if _marks_spaces(tokenizer):
            each = [(text, token_ids(tokenizer, text)) for text in _ANCHORS]
            self.anchors = [(text, ids) for text, ids in each if tokenizer.decode(ids).endswith(text)]
            ids = token_ids(tokenizer, _LETTER)
            self.letter = (tokenizer.decode(ids), ids)

    def encode(self, text: str, *, split: bool = True) -> list[int]:
        """Tokens of a text that follows another, without any that the tokenizer would add.

        Args:
            text: what follows.
            split: special tokens that it spells are text too, as of what somebody said; if not, as of what a template
                writes, they are those tokens.
        """
        for anchor, ids in self.anchors:
            whole = token_ids(self.tokenizer, anchor + text, split=split)
            if whole[: len(ids)] == ids:  # no token reaches over the anchor's end
                return whole[len(ids) :]
        return token_ids(self.tokenizer, text, split=split)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of tokens that follow others; special tokens are left out."""
        before, ids = self.letter
        whole = str(self.tokenizer.decode([*ids, *tokens], skip_special_tokens=True))
        if whole.startswith(before):
            return whole[len(before) :]
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True))


def token_ids(tokenizer: Any, text: str, *, special: bool = False, split: bool = False) -> list[int]:
    """Tokens of a text.

    Args:
        tokenizer: of `transformers`.
        text: any.
        special: adds those of the tokenizer's own that begin and end a text.
        split: special tokens that the text spells are text, whatever it says.
    """
    if split and len(pieces := _without_turns(tokenizer, text)) > 1:
        behind = Continuation(tokenizer)
        first = token_ids(tokenizer, pieces[0], special=special, split=True)
        return [*first, *(i for piece in pieces[1:] for i in behind.encode(piece))]
    # Without the warning about the length that the model was made for: limits are checked by us.
    coded = tokenizer(text, add_special_tokens=special, split_special_tokens=split, verbose=False)
    ids: list[int] = coded["input_ids"]
    return ids


def turn_tokens(tokenizer: Any) -> dict[str, int]:
    """Tokens with which the chat template marks turns although the tokenizer does not call them special, by their text.

    As in the distilled models of DeepSeek-R1. `split_special_tokens` leaves them whole.
    """
    template = getattr(tokenizer, "chat_template", None)
    known: tuple[Any, dict[str, int]] | None = getattr(tokenizer, _TURNS, None)
    if known is None or known[0] != template:
        known = template, _find_turn_tokens(tokenizer) if template else {}
        setattr(tokenizer, _TURNS, known)
    return known[1]


def _find_turn_tokens(tokenizer: Any) -> dict[str, int]:
    plain = {token.content: i for i, token in tokenizer.added_tokens_decoder.items() if not token.special}
    if not plain:
        return {}
    said = [{"role": role, "content": "a"} for role in ("user", "assistant", "user")]
    try:
        written = str(tokenizer.apply_chat_template(said, tokenize=False))
    except Exception:  # the template is a program of the tokenizer's; what it refuses is told where it is used
        written = ""
    return {text: i for text, i in plain.items() if text.strip() and text in written}


def _without_turns(tokenizer: Any, text: str) -> list[str]:
    """A text in pieces none of which spells a turn's token: each that it spells is cut behind its first character."""
    pieces, start = [], 0
    turns = [turn for turn in turn_tokens(tokenizer) if turn in text]
    if turns:
        for found in re.finditer("|".join(map(re.escape, sorted(turns, key=len, reverse=True))), text):
            pieces.append(text[start : found.start() + 1])
            start = found.start() + 1
    return [*pieces, text[start:]]


def _marks_spaces(tokenizer: Any) -> bool:
    """Whether the vocabulary has a token for a space as the SentencePiece family writes it."""
    place = tokenizer.convert_tokens_to_ids(_SPACE)
    return place is not None and tokenizer.convert_ids_to_tokens(place) == _SPACE
