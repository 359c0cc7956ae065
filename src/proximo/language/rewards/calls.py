"""How a user's own reward function is called, by what it asks for; what it gives, and where it fails."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from typing import Any

import torch

from proximo.errors import FOREIGN, UserError, own_frame
from proximo.runs.plugins import on_one_line, torchs_modes_put_back

_PROMPTS, _RESPONSES, _COMPLETIONS = "prompts", "responses", "completions"
_SCORED = (_RESPONSES, _COMPLETIONS)
_TOKENS = ("completion_ids", "completions_ids", "prompt_ids", "completion_mask", "logprobs")
"""What TRL gives of tokens."""


class RewardCall:
    """A reward function and the names of what it asks for.

    Prompts, responses and columns of the rows are given by their names. Parameters of other names get what is left of
    prompts and responses, in this order. A function that asks for `completions` gets what TRL's trainers give: of chat
    messages, the prompts as messages and each answer as a list of one. `**columns` gets the columns, and what of
    prompts and responses the function has no other place for; torch's modes are put back when it has run.

    Args:
        function: of the user's own; it may be a coroutine.
        name: of the reward, for messages.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function, self.name = function, name
        self._parameters = _parameters(function)

    def check_columns(self, names: Collection[str]) -> None:
        """Refuse rows with a column that is called as the function calls the prompts or the responses, or without one
        that it needs.

        Args:
            names: of the columns.

        Raises:
            UserError: names it.
        """
        if self._parameters is None:
            return
        slots = self._slots(names)
        scored = [p.name for p in self._parameters if p.name in (_PROMPTS, *_SCORED)]
        scored += [_PROMPTS, *_SCORED] * self._takes_all(names)
        if taken := [name for name in (*scored, *slots) if name in names]:
            raise UserError(
                f"the prompts' rows have a column {taken[0]!r}, but reward {self.name} calls what it scores so: rename "
                "the column"
            )
        known = {_PROMPTS, *_SCORED, *slots, *names}
        if missing := [p.name for p in self._required() if p.name not in known]:
            if missing[0] in _TOKENS:
                raise UserError(
                    f"reward {self.name} asks for {missing[0]!r}, but rewards are given texts and no tokens: let it "
                    "read the responses, or give it a default"
                )
            have = ", ".join(sorted(names)) or "nothing beside the prompt"
            raise UserError(
                f"reward {self.name} asks for {missing[0]!r}, which the prompts' rows do not have (they have {have}): "
                "add it to the rows, or give it a default"
            )

    def __call__(
        self, prompts: list[str], responses: list[str], sources: Sequence[Any], columns: Mapping[str, list[Any]]
    ) -> Any:
        """What the function gives, a coroutine's result included; the lists are its own.

        Raises:
            UserError: it fails, with file and line of its own code.
        """
        given = {_PROMPTS: list(prompts), _RESPONSES: list(responses)}
        own = {name: list(values) for name, values in columns.items()}
        try:
            with torchs_modes_put_back():
                if self._parameters is None:
                    result = self.function(given[_PROMPTS], given[_RESPONSES], **own)
                else:
                    positional, named = self._arguments(given, sources, own)
                    result = self.function(*positional, **named)
                result = _awaited(result) if inspect.isawaitable(result) else result
                return list(result) if isinstance(result, Iterator) else result  # a generator runs only now
        except FOREIGN as error:  # it is the user's own code: whatever it raises, say whose it is
            raise UserError(
                f"reward {self.name} failed{_where(error)} ({on_one_line(error)}): correct the function"
            ) from error

    def _arguments(
        self, given: dict[str, Any], sources: Sequence[Any], columns: dict[str, list[Any]]
    ) -> tuple[list[Any], dict[str, Any]]:
        parameters = self._parameters or []
        names = {p.name for p in parameters}
        if _COMPLETIONS in names and not names & {_RESPONSES}:
            given = _as_trl(given, sources)
        slots = self._slots(columns)
        values = columns | given | {_COMPLETIONS: given[_RESPONSES]}
        values |= {slot: given[what] for slot, what in zip(slots, self._left(), strict=False)}
        positional = [values[p.name] for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in values]
        by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        named = {name: values[name] for name in by_name if name in values}
        if any(p.kind is p.VAR_POSITIONAL for p in parameters) and not named:
            positional += [given[what] for what in self._left()][len(positional) :]
        if any(p.kind is p.VAR_KEYWORD for p in parameters):
            more = columns | ({_PROMPTS: given[_PROMPTS]} if names & set(_SCORED) and _PROMPTS not in names else {})
            if self._takes_all(columns):
                more |= given | {_COMPLETIONS: _as_trl(given, sources)[_RESPONSES]}
            named |= {name: x for name, x in more.items() if name not in names}
        return positional, named

    def _left(self) -> list[str]:
        """What of prompts and responses is not asked for by its name; of one place alone, the responses."""
        names = {p.name for p in self._parameters or []}
        left = [_PROMPTS] * (_PROMPTS not in names) + [_RESPONSES] * (not names & set(_SCORED))
        places = [p for p in self._required() if p.name not in (_PROMPTS, *_SCORED)]
        var = any(p.kind is p.VAR_POSITIONAL for p in self._parameters or [])
        return left[-1:] if len(left) == 2 and len(places) == 1 and not var else left

    def _slots(self, columns: Collection[str]) -> list[str]:
        """Parameters of the function's own names that get prompts and responses: its first ones; or, beside one that is
        called by its name, the one that stands where the other would, before the responses or behind the prompts.
        """
        required = [p.name for p in self._required()]
        known = [name for name in required if name in (_PROMPTS, *_SCORED)]
        unknown = [name for name in required if name not in (_PROMPTS, *_SCORED)]
        if not any(p.name in (_PROMPTS, *_SCORED) for p in self._parameters or []):
            return unknown[: len(self._left())]
        place = 1 if _PROMPTS in known else 0
        beside = required[place : place + 1] if len(known) == 1 and required[1 - place : 2 - place] == known else []
        return [name for name in beside if self._left() and name not in columns]

    def _takes_all(self, columns: Collection[str]) -> bool:
        """Whether `**columns` is the only place that the responses can go to."""
        parameters = self._parameters or []
        kinds = {p.kind for p in parameters}
        other = any(p.name in _SCORED for p in parameters) or inspect.Parameter.VAR_POSITIONAL in kinds
        return inspect.Parameter.VAR_KEYWORD in kinds and not other and not self._slots(columns)

    def _required(self) -> list[inspect.Parameter]:
        kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        return [p for p in self._parameters or [] if p.default is p.empty and p.kind not in kinds]


def scores_of(result: Any, name: str) -> list[float | None]:
    """Numbers from what a function gave; None for a response that it does not apply to.

    Raises:
        UserError: it is no sequence of numbers.
    """
    if hasattr(type(result), "columns"):  # a table: iterated, it gives the names of its columns
        raise UserError(
            f"reward {name} must give one number per response, as a list in their order: it gave a "
            f"{type(result).__name__}; give one of its columns"
        )
    if result is None or isinstance(result, Mapping | Set | str | bytes | bytearray):
        raise UserError(
            f"reward {name} must give one number per response, as a list in their order: it gave a "
            f"{type(result).__name__}"
        )
    result = result.detach() if isinstance(result, torch.Tensor) else result
    try:
        return [None if x is None else float(x) for x in result]
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UserError(f"reward {name} must give one number per response ({error})") from error


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """None of what has no signature, as some builtins."""
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None


def _as_trl(given: dict[str, Any], sources: Sequence[Any]) -> dict[str, Any]:
    if not (sources and all(isinstance(source, list) for source in sources)):
        return given
    answers = [[{"role": "assistant", "content": text}] for text in given[_RESPONSES]]
    return {_PROMPTS: [[dict(m) for m in source] for source in sources], _RESPONSES: answers}


def _awaited(result: Any) -> Any:
    """The result of a coroutine, also within a loop that runs already, as in a notebook."""

    async def waits() -> Any:
        return await result

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(waits())
    seen: list[Any] = []

    def run() -> None:
        try:
            seen.append((True, asyncio.run(waits())))
        except BaseException as error:
            seen.append((False, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    done, value = seen[0]
    if not done:
        raise value
    return value


def _where(error: BaseException) -> str:
    """` at FILE, line N` of the user's code."""
    frame = own_frame(error)
    return "" if frame is None else f" at {frame.filename}, line {frame.lineno}"
