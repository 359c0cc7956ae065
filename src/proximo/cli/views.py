"""The verbs that show a run: each is a function of `proximo.views`."""

from collections.abc import Callable, Sequence

VERBS: dict[str, Callable[[Sequence[str]], int]] = {}
