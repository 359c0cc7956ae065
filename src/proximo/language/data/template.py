"""Chat templates, in which what a message says stays text and never becomes a special token or another turn."""

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import date, datetime
from typing import Any

from proximo.errors import UserError
from proximo.language.data.continuation import Continuation, token_ids, turn_tokens

Messages = list[dict[str, Any]]

_MARK = "\ue000"  # of Unicode's private use: stands in no text, so what follows it is the template's
_HIDDEN = 0xF0000  # so are these, one for each special token that a message spells
_BESIDE = 0x10000
_DAY = "_proximo_day"
_DIRECTIVES = (
    *("-d", "-m", "-H", "-I", "-M", "-S", "-j", "-y", "-e", "-k", "-l"),
    *("Ec", "EC", "Ex", "EX", "Ey", "EY", "Od", "Oe", "OH", "OI", "Om", "OM", "OS", "Ou", "OU", "OV", "Ow", "OW", "Oy"),
    *"aAbBcCdDeFfGhHIjklmMnpPrRsStTuUVwWxXyYzZ",
)
"""Of strftime, those of several letters first."""
_PERCENT = "\ue0ff"
"""Stands for %% while directives are replaced: the d of %%d is none."""


class ChatTemplate:
    """Renders messages through a tokenizer's chat template, and tells the template's tokens from the messages'.

    While a message goes through the template, special tokens that it spells are single characters of Unicode's private
    use. What the template writes is tokenised with its special tokens; what the messages say, without.

    Args:
        tokenizer: of `transformers`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._continuation = Continuation(tokenizer)
        self._listens = False  # whether a text in a message was seen to change what is written
        added = tokenizer.added_tokens_decoder
        self._special = {token.content: i for i, token in added.items() if token.special and token.content}
        self._special |= turn_tokens(tokenizer)
        longest_first = sorted(self._special, key=len, reverse=True)
        self._spelled = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None
        self._places = {text: chr(_HIDDEN + place) for place, text in enumerate(longest_first)}
        self._texts = {place: text for text, place in self._places.items()}
        # Somebody may write such a character: it is another one meanwhile.
        self._moved = {ord(place): chr(ord(place) + _BESIDE) for place in self._texts}
        self._back = {new: chr(old) for old, new in self._moved.items()}

    def text(self, messages: Messages) -> str:
        """Messages and the beginning of an answer, as the model reads them."""
        return self._shown(self._opened(messages))

    def ids(self, messages: Messages) -> list[int]:
        """Tokens of messages and the beginning of an answer."""
        rendered = self._opened(messages)
        if not self._spells(rendered):
            return token_ids(self.tokenizer, self._shown(rendered))
        return self._ids_by_parts(rendered)

    def frame(self, messages: Messages) -> tuple[str, str]:
        """White space that the template puts before an answer, and all that it writes behind one.

        Anything else before an answer is left out: a response is what follows the generation prompt, so that a thought
        which was opened there, or cut off, is read as it was written.
        """
        whole = self._render([*messages, {"role": "assistant", "content": _MARK}], answered=True)
        before, mark, behind = whole.rpartition(_MARK)
        if not mark:  # the template leaves answers out: nothing is known of what stands around them
            return "", ""
        opened = self._opened(messages)
        lead = before[len(opened) :] if before.startswith(opened) else ""
        return "" if lead.strip() else lead, self._shown(behind)

    def _opened(self, messages: Messages) -> str:
        if messages and messages[-1].get("role") == "assistant":
            raise UserError(
                "the prompt ends with the assistant's own message, behind which another answer would begin: end it "
                "with the user's, and give the answer as 'response', 'chosen' or 'rejected'"
            )
        opened = self._render(messages, answered=False)
        if not self._listens:
            self._listens = opened != self._of_others(messages)
        if not self._listens:
            raise UserError(
                "the tokenizer's chat template leaves out what the messages say, so that all prompts would be the "
                "same: take another template"
            )
        return opened

    def _of_others(self, messages: Messages) -> str | None:
        """The same with other texts in the messages; None where the template refuses them."""
        with suppress(UserError):
            others = [_with_texts(message, lambda _: _MARK, lambda name: name) for message in messages]
            return self._render(others, answered=False)
        return None

    def _render(self, messages: Messages, *, answered: bool) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(
                "the prompts are chat messages, but the tokenizer has no chat template: give prompts as text, or a "
                "tokenizer with tokenizer.chat_template"
            )
        try:
            template = _dated(self.tokenizer.get_chat_template(), getattr(self.tokenizer, _DAY, ""))

            def written(said: list[Any]) -> str:
                return str(
                    self.tokenizer.apply_chat_template(
                        said, chat_template=template, tokenize=False, add_generation_prompt=not answered
                    )
                )

            text = written([_with_texts(message, self._hide) for message in messages])
            if self._spells(text) and self._shown(text) != written(messages):
                # The template looks for tokens in what the assistant said, as for the end of a thought.
                text = written([_with_texts(m, self._hide) if m.get("role") != "assistant" else m for m in messages])
        except Exception as error:  # the template is a program of the tokenizer's: whatever it raises, say whose it is
            roles = ", ".join(str(message.get("role")) for message in messages)
            raise UserError(
                f"the tokenizer's chat template refuses messages of {roles} ({' '.join(str(error).split())}): change "
                "them, or take another template"
            ) from error
        return text

    def _spells(self, rendered: str) -> bool:
        """Whether messages spell special tokens in it."""
        return any(place in self._texts for place in rendered)

    def _hide(self, text: str) -> str:
        if not self._spelled:
            return text
        return self._spelled.sub(lambda found: self._places[found[0]], text.translate(self._moved))

    def _shown(self, rendered: str) -> str:
        return "".join(self._texts.get(place) or self._back.get(place, place) for place in rendered)

    def _ids_by_parts(self, rendered: str) -> list[int]:
        """Tokens of a rendered text some of whose special tokens are spelled by messages: the others cut it."""
        assert self._spelled is not None
        added = self.tokenizer.added_tokens_decoder
        ids: list[int] = []
        start, strip = 0, False
        for found in [*self._spelled.finditer(rendered), None]:
            part = rendered[start : found.start() if found else None]
            token = added[self._special[found[0]]] if found else None
            part = part.lstrip() if strip else part  # as a token's own settings say
            part = self._shown(part.rstrip() if token is not None and token.lstrip else part)
            if part:
                begins = token_ids(self.tokenizer, part, split=True) if start == 0 else self._continuation.encode(part)
                ids += begins
            if found and token is not None:
                ids.append(self._special[found[0]])
                start, strip = found.end(), bool(token.rstrip)
        return ids


def freeze_day(tokenizer: Any, day: str) -> Any:
    """Has a template that writes the date write this one; returns the tokenizer. What is saved of it stays as it was.

    Args:
        tokenizer: of `transformers`.
        day: YYYY-MM-DD; "" is whatever day it is.
    """
    setattr(tokenizer, _DAY, day)
    return tokenizer


def today() -> str:
    """The day, YYYY-MM-DD."""
    return date.today().isoformat()


def reads_alike(mine: Any, other: Any) -> bool:
    """Whether another tokenizer makes the same tokens of the same prompts; it may have more tokens, to pad with."""
    if mine is other:
        return True
    same = ("chat_template", "bos_token_id", "eos_token_id", _DAY)
    if any(getattr(mine, name, None) != getattr(other, name, None) for name in same):
        return False
    if not mine.get_vocab().items() <= other.get_vocab().items():
        return False
    text = " A text, of 2 lines:\n\t« é »  and " + "".join(mine.all_special_tokens) + " x"
    return _probed(mine, text) == _probed(other, text)


def _probed(tokenizer: Any, text: str) -> list[list[int]] | str:
    """A text in every way that texts are tokenised here; the error where the vocabulary can not write it."""
    try:
        return [token_ids(tokenizer, text, special=a, split=b) for a in (False, True) for b in (False, True)]
    except Exception as error:  # of the tokenizer's own kind
        return str(error)


def _dated(template: str, day: str) -> str:
    """A template whose `strftime_now` writes a given day, at midnight; `transformers` takes no function of ours."""
    if not day or "strftime_now" not in template:
        return template
    at = datetime.fromisoformat(day)
    steps = [("%%", _PERCENT), *((f"%{x}", at.strftime(f"%{x}")) for x in _DIRECTIVES), (_PERCENT, "%")]
    written = "".join(f" | replace({old!r}, {new!r})" for old, new in steps)
    return "{%- macro strftime_now(format) -%}{{ format" + written + " }}{%- endmacro -%}" + template


def _with_texts(value: Any, change: Any, rename: Any = None) -> Any:
    """The same messages with every text in them changed but for roles, and names of fields too, or else by `rename`."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        named, kept = rename or change, ("role", "type")
        return {named(name): x if name in kept else _with_texts(x, change, rename) for name, x in value.items()}
    return [_with_texts(x, change, rename) for x in value] if isinstance(value, list) else value
