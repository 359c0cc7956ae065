"""Text to tokens, in one way for fine-tuning, reward models and PPO."""

import re
from typing import Any, Literal

from proximo.errors import UserError
from proximo.language.data.continuation import Continuation, token_ids
from proximo.language.data.template import ChatTemplate, Messages

Text = str | Messages
"""A prompt: text, or chat messages."""


_OPENED = re.compile(r"(<[A-Za-z_]+>)(\s*)\Z")
"""A tag at the end of a prompt, which the answer is to go on within."""


class Coder:
    """Text to tokens, each text once.

    What people and models say, chat messages and responses, is tokenised without special tokens (`split_special_tokens`
    of `transformers`), so that nobody forges a turn by spelling one. A prompt that is text is the whole of what the
    model reads, as the user wrote it: special tokens that it spells are meant.

    Args:
        tokenizer: with an EOS token.
    """

    def __init__(self, tokenizer: Any) -> None:
        check_eos(tokenizer)
        self.tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer)
        self._continuation = Continuation(tokenizer)
        self._known: dict[tuple[str, str], list[int]] = {}
        self._frame: tuple[str, str, int] | None = None

    def prompt_text(self, prompt: Text) -> str:
        """The prompt as the model reads it; chat messages through the tokenizer's template."""
        return prompt if isinstance(prompt, str) else self._template.text(prompt)

    def prompt_ids(self, prompt: Text) -> list[int]:
        """Tokens of a prompt, with the tokenizer's own start (BOS), once, and without an end."""
        if not isinstance(prompt, str):
            return self._template.ids(prompt)  # a template writes its own start
        ids = list(self._encode(prompt, "text"))
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and ids[:2] == [bos, bos] and prompt.lstrip().startswith(self.tokenizer.bos_token):
            ids = ids[1:]  # the text had one already, as what a template wrote has
        ends_itself = ids and ids[-1] == eos and not prompt.endswith(self.tokenizer.eos_token)
        return ids[:-1] if ends_itself else ids

    def response_ids(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Tokens of a response, with what the template writes up to the token that ends it (see `end`), if it ended."""
        lead, behind, end = (
            ("", "", int(self.tokenizer.eos_token_id)) if isinstance(prompt, str) else self._ends(prompt)
        )
        text = response if response.startswith(lead) else lead + response
        if not finished:
            return list(self._encode(text, "said"))
        if self._encode(behind, "said") == self._encode(behind, "template"):  # text alone: as it is in one text
            return [*self._encode(text + behind, "said"), end]
        return [*self._encode(text, "said"), *self._encode(behind, "template"), end]

    def end(self, prompt: Text) -> int:
        """The token that ends a response to this prompt.

        EOS; but for chat messages whose template ends a turn with another special token and without EOS, as those of
        many base models do, that token: nothing that the template writes behind it is learnt as part of the answer.
        """
        return self._ends(prompt)[2]

    def without_frame(self, prompt: Text, response: str) -> str:
        """A response of a file without what the template writes around answers, where it spells that itself.

        That is the end of answers, and a tag such as <think> that the prompt opens at its end.
        """
        spelled = self.tokenizer.convert_ids_to_tokens(self.end(prompt))
        ended = response.rstrip()
        response = ended.removesuffix(spelled) if ended.endswith(spelled) else response
        said = response.lstrip()
        if isinstance(prompt, str) or not said.startswith("<"):  # few do, and to know the prompt takes its template
            return response
        opened = _OPENED.search(self._template.text(prompt))
        if opened is None or not said.startswith(opened[1]):
            return response
        return said.removeprefix(opened[1]).removeprefix(opened[2])  # the prompt has the white space behind the tag

    def whole(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Tokens of prompt and response together."""
        return self.prompt_ids(prompt) + self.response_ids(prompt, response, finished=finished)

    def _ends(self, prompt: Text) -> tuple[str, str, int]:
        """White space before an answer, what the template writes between it and its end, and the end's token."""
        if isinstance(prompt, str):
            return "", "", int(self.tokenizer.eos_token_id)
        if self._frame is None:  # a template frames all answers alike: one is enough to know it
            lead, behind = self._template.frame(prompt)
            end = self._special_end(self._encode(behind, "template"))
            spelled = self.tokenizer.convert_ids_to_tokens(end)
            self._frame = lead, behind.partition(spelled)[0] if spelled in behind else behind, end
        return self._frame

    def _special_end(self, ids: list[int]) -> int:
        """The token that says the end among those that a template writes behind an answer."""
        eos, added = int(self.tokenizer.eos_token_id), self.tokenizer.added_tokens_decoder
        if eos in ids:
            return eos
        special = [i for i in ids if i in added and added[i].special and i != self.tokenizer.unk_token_id]
        return special[0] if special else eos

    def _encode(self, text: str, place: Literal["text", "template", "said"]) -> list[int]:
        """Tokens of a whole text, own ones included; of what a template writes behind an answer; of an answer."""
        key = (text, place)
        if key not in self._known:
            if place == "text":
                self._known[key] = token_ids(self.tokenizer, text, special=True)
            else:
                self._known[key] = self._continuation.encode(text, split=place == "said")
        return self._known[key]


def end_of_chat(tokenizer: Any, messages: Messages) -> int:
    """The token that ends a response to chat messages, see `Coder.end`; EOS where no template can say."""
    coder = Coder(tokenizer)
    try:
        return coder.end(messages)
    except UserError:  # there is no template, or it refuses these messages with an answer
        return int(tokenizer.eos_token_id)


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
