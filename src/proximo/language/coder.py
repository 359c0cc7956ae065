"""Text to tokens, in one way for fine-tuning, reward models and PPO."""

from typing import Any, Literal

from proximo.language.continuation import Continuation, token_ids
from proximo.language.models import check_eos
from proximo.runs.errors import UserError

Text = str | list[dict[str, str]]
"""A prompt: text, or chat messages."""

_MARK = "\ue000"  # of Unicode's private use: stands in no text, so what follows it is the template's


class Coder:
    """Text to tokens, each text once.

    Args:
        tokenizer: with an EOS token.
    """

    def __init__(self, tokenizer: Any) -> None:
        check_eos(tokenizer)
        self.tokenizer = tokenizer
        self._continuation = Continuation(tokenizer)
        self._known: dict[tuple[str, str], list[int]] = {}
        self._chat_end: int | None = None

    def prompt_text(self, prompt: Text) -> str:
        """The prompt as the model reads it; chat messages through the tokenizer's template."""
        return prompt if isinstance(prompt, str) else self._render(prompt, answered=False)

    def prompt_ids(self, prompt: Text) -> list[int]:
        """Tokens of a prompt, with the tokenizer's own start (BOS) and without an end."""
        # A template writes its own special tokens.
        ids = self._encode(self.prompt_text(prompt), "text" if isinstance(prompt, str) else "rendered")
        eos = self.tokenizer.eos_token_id
        ends_itself = (
            isinstance(prompt, str) and ids and ids[-1] == eos and not prompt.endswith(self.tokenizer.eos_token)
        )
        return ids[:-1] if ends_itself else list(ids)

    def response_ids(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Tokens of a response, with the token that ends it (see `end`) if it is finished."""
        if isinstance(prompt, str):
            ids = list(self._encode(response, "following"))
        else:
            ids = list(self._encode(self._answer(prompt, response, finished=finished), "following"))
        if not finished:
            return ids
        end = self.end(prompt)
        if not isinstance(prompt, str) and end in ids:  # templates put a line break behind it
            ids = ids[: len(ids) - 1 - ids[::-1].index(end)]
        return ids if ids and ids[-1] == end else [*ids, end]

    def end(self, prompt: Text) -> int:
        """The token that ends a response to this prompt.

        EOS; but for chat messages whose template ends a turn with another special token and without EOS, as those of
        many base models do, that token: nothing that the template writes behind it is learnt as part of the answer.
        """
        if isinstance(prompt, str):
            return int(self.tokenizer.eos_token_id)
        if self._chat_end is None:  # a template ends all answers alike: one is enough to know it
            self._chat_end = self._special_end(self._encode(self._end_of_turn(prompt), "following"))
        return self._chat_end

    def whole(self, prompt: Text, response: str, *, finished: bool = True) -> list[int]:
        """Tokens of prompt and response together."""
        return self.prompt_ids(prompt) + self.response_ids(prompt, response, finished=finished)

    def _answer(self, prompt: list[dict[str, str]], response: str, *, finished: bool) -> str:
        """A response as the template writes it behind the prompt; without the template's end if it is not finished."""
        whole = self._render([*prompt, {"role": "assistant", "content": response}], answered=True)
        before = self.prompt_text(prompt)
        if not whole.startswith(before):
            raise UserError(
                "the tokenizer's chat template changes the prompt when an answer follows, so prompt and response "
                "can not be told apart: give prompts as text"
            )
        answer = whole[len(before) :]
        if finished:
            return answer
        return answer.removesuffix(self._end_of_turn(prompt))

    def _end_of_turn(self, prompt: list[dict[str, str]]) -> str:
        """What the template writes behind an answer."""
        return self._render([*prompt, {"role": "assistant", "content": _MARK}], answered=True).rpartition(_MARK)[2]

    def _special_end(self, ids: list[int]) -> int:
        """The token that says the end among those that a template writes behind an answer."""
        eos, added = int(self.tokenizer.eos_token_id), self.tokenizer.added_tokens_decoder
        if eos in ids:
            return eos
        special = [i for i in ids if i in added and added[i].special and i != self.tokenizer.unk_token_id]
        return special[0] if special else eos

    def _encode(self, text: str, place: Literal["text", "rendered", "following"]) -> list[int]:
        """Tokens of a whole text, own ones included, of one that a template wrote, or of one that follows another."""
        key = (text, place)
        if key not in self._known:
            if place == "following":
                self._known[key] = self._continuation.encode(text)
            else:
                self._known[key] = token_ids(self.tokenizer, text, special=place == "text")
        return self._known[key]

    def _render(self, messages: list[dict[str, str]], *, answered: bool) -> str:
        if not self.tokenizer.chat_template:
            raise UserError(
                "the prompts are chat messages, but the tokenizer has no chat template: give prompts as text, or a "
                "tokenizer with tokenizer.chat_template"
            )
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered)
        except Exception as error:  # the template is a program of the tokenizer's: whatever it raises, say whose it is
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(
                f"the tokenizer's chat template refuses messages of {roles} ({' '.join(str(error).split())}): change "
                "them, or take another template"
            ) from error
        return str(text)


def end_of_chat(tokenizer: Any, messages: list[dict[str, str]]) -> int:
    """The token that ends a response to chat messages, see `Coder.end`; EOS where no template can say."""
    coder = Coder(tokenizer)
    try:
        return coder.end(messages)
    except UserError:  # there is no template, or it refuses these messages with an answer
        return int(tokenizer.eos_token_id)
