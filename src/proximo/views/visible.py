"""Texts of strangers, safe to show."""

_SHOWN = {"\n": "⏎", "\t": "⇥"}


def visible(text: str) -> str:
    """Text that does nothing to a terminal or to its line: what can not be printed is an escape, line ends are ⏎."""
    return "".join(c if c.isprintable() else _SHOWN.get(c) or c.encode("unicode_escape").decode() for c in text)
