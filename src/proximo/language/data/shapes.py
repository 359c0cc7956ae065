"""Rows as other trainers and data sets have them, put into ours: a prompt, and a response or two to choose from."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from proximo.runs.storage.files import parse_json

_ROLES = {"human": "user", "gpt": "assistant", "system": "system", "user": "user", "assistant": "assistant"}
_ROLES |= {"tool": "tool", "function": "function", "function_call": "assistant", "observation": "tool"}
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")
_WRITTEN = re.compile(r"""\s*\[\s*\{\s*"[\s\S]*\]\s*$""")
_PRINTED = re.compile(r"""\s*\[\s*\{\s*'(role|content|from|value)':[\s\S]*\]\s*$""")
TEXTS = ("prompt", "messages", "conversations", "response", "completion", "chosen", "rejected")
"""Fields that can be conversations; what else a row holds is for reward functions, as it is."""


def shaped(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A row with the fields that are wanted of it, where another shape holds them.

    `messages` (or ShareGPT's `conversations`) is a conversation: its last answer is the response, what stands before it
    the prompt. `completion` is TRL's name of a response. `chosen` and `rejected` may be whole conversations, beside a
    prompt or without: what both begin with is the prompt. One assistant message is its text. Messages may be written as
    JSON.

    Args:
        row: as read.
        names: prompt, and what else has to be there.
    """
    row = {name: _conversation(value) if name in TEXTS else value for name, value in row.items()}
    if "prompt" not in row or row["prompt"] is None:
        row = _from_messages(row, names)
    if "response" in names and "response" not in row and "completion" in row:
        row["response"] = row["completion"]
    row = _from_pair(row)
    return row | {name: row[name][0]["content"] for name in names if name != "prompt" and _is_answer(row.get(name))}


def _conversation(value: Any) -> Any:
    """Messages with `role` and `content`, and text instead of parts that are all text; anything else as it is."""
    value = _from_json(value)
    if not (isinstance(value, list) and value and all(isinstance(x, Mapping) for x in value)):
        return value
    if all("from" in x and "value" in x and "role" not in x for x in value):
        value = [{"role": _ROLES.get(str(x["from"]).lower(), x["from"]), "content": x["value"]} for x in value]
    return [_whole_text(x) if isinstance(x.get("content"), list) else x for x in value]


def _from_json(value: Any) -> Any:
    """Messages that are written as JSON, as the cells of a table have them; anything else as it is."""
    if not (isinstance(value, str) and _WRITTEN.match(value)):
        return value
    try:
        read = parse_json(value)
    except ValueError:
        return value
    return read if all(isinstance(x, Mapping) and _is_turn(x) for x in read) else value


def _is_turn(message: Mapping[str, Any]) -> bool:
    """Whether it is a message, and not JSON of another kind that a model may be taught to write."""
    if "role" in message and "content" in message:
        return isinstance(message["role"], str)
    return str(message.get("from")).lower() in _ROLES and isinstance(message.get("value"), str)


def is_python(value: Any) -> bool:
    """Whether a text is messages as Python prints them, which are no JSON."""
    return isinstance(value, str) and bool(_PRINTED.match(value))


def _whole_text(message: Mapping[str, Any]) -> Mapping[str, Any]:
    parts = message["content"]
    if all(isinstance(part, Mapping) and part.get("type") == "text" and "text" in part for part in parts):
        return {**message, "content": "".join(str(part["text"]) for part in parts)}
    return message


def _from_messages(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    messages = _messages_of(row)
    if not messages:
        return row
    answered = messages[-1].get("role") == "assistant"
    before = messages[:-1] if answered else messages
    response = {"response": [messages[-1]]} if answered and "response" in names and "response" not in row else {}
    return {**row, "prompt": before, **response}


def _messages_of(row: Mapping[str, Any]) -> list[Any]:
    """The conversation of a row, [] if it has none."""
    found = (row[name] for name in ("messages", "conversations") if isinstance(row.get(name), list))
    messages: list[Any] = next(found, [])
    return messages if all(isinstance(x, Mapping) for x in messages) else []


def last_role(row: Mapping[str, Any]) -> str:
    """Who says the last message of a row's conversation; "" if it has none, or it is the assistant's."""
    messages = _messages_of(row)
    role = str(messages[-1].get("role")) if messages else "assistant"
    return "" if role == "assistant" else role


def _from_pair(row: dict[str, Any]) -> dict[str, Any]:
    """A pair of whole conversations, split where they part.

    Beside a prompt they are split only if the prompt is what they begin with, or the text that they end with before.
    """
    shared, fits = _beginning(row)
    if not shared or not fits:
        return row
    chosen, rejected = row["chosen"], row["rejected"]
    return {**row, "prompt": chosen[:shared], "chosen": chosen[shared:], "rejected": rejected[shared:]}


def _beginning(row: Mapping[str, Any]) -> tuple[int, bool]:
    """With how many messages both sides of a pair begin alike, and whether the prompt is these."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        return 0, False
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen[:-1], rejected[:-1], strict=False)))
    prompt, begins = row.get("prompt"), chosen[:shared]
    last = begins[-1].get("content") if begins and isinstance(begins[-1], Mapping) else None
    return shared, prompt is None or prompt in (begins, last)


def other_beginning(row: Mapping[str, Any]) -> str:
    """What both sides of a pair begin with, where its prompt is something else; "" where it is not."""
    shared, fits = _beginning(row)
    if not shared or fits:
        return ""
    last = row["chosen"][shared - 1]
    return str(last.get("content") if isinstance(last, Mapping) else last)


def _is_answer(value: Any) -> bool:
    if not (isinstance(value, list) and len(value) == 1 and isinstance(value[0], Mapping)):
        return False
    answer = value[0]
    return answer.get("role") == "assistant" and isinstance(answer.get("content"), str) and not unlearnt(answer)


def unlearnt(message: Mapping[str, Any]) -> str:
    """The field of an answer that would be left out, as only its content is learnt: calls of tools, or a thought."""
    return next((name for name in ("tool_calls", "function_call", *_THOUGHTS) if message.get(name)), "")
