"""The text of each token, safe to print."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proximo.errors import UserError
from proximo.runs.config.toml import read_toml

_INCOMPLETE = "\ufffd"


class Pieces:
    """Decodes tokens one by one, as parts of the text that they make together.

    Args:
        tokenizer: of `transformers`; None shows ids.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __call__(self, ids: Sequence[int]) -> list[str]:
        """One text for each token; of a character that takes several, all but the last are shown as �."""
        if self._tokenizer is None:
            return [f"<{i}>" for i in ids]
        found, before = [], ""
        for n in range(1, len(ids) + 1):
            whole = self._decode(ids[:n])
            found.append(whole[len(before) :] if whole.startswith(before) else self._decode(ids[n - 1 : n]))
            before = whole.rstrip(_INCOMPLETE)
        return found

    def whole(self, ids: Sequence[int]) -> str:
        """The text of all of them, special tokens too."""
        return "".join(f"<{i}>" for i in ids) if self._tokenizer is None else self._decode(ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def pieces_of(run: Path) -> tuple[Pieces, str]:
    """What decodes a run's tokens, its own policy's or the one that it began with; and a sentence where nothing can.

    Code that a model brings is not run, whatever the run's settings say: they may be a stranger's.

    Args:
        run: its folder.
    """
    places = [str(run / "policy")] if (run / "policy").is_dir() else []
    why = ""
    for place in [*places, str(read_toml(run / "config.toml").get("policy", ""))]:
        try:
            from proximo.language.models.loading import load_text_tokenizer

            return Pieces(load_text_tokenizer(place)), ""
        except (UserError, ImportError) as error:
            why = str(error)
    return Pieces(None), f"tokens are shown by their ids, as there is no tokenizer: {why}"
