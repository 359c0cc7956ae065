"""What the page shows of a run beside its numbers: films by name, and the tokens of its last iteration."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from proximo.views.report import credit, videos
from proximo.views.seen import Seen

if TYPE_CHECKING:
    from proximo.views.inspect.pieces import Pieces


DETAILS = ("videos", "tokens")
"""Folders of a run that it is shown without, where they are links that lead elsewhere."""
AWAY = "a link that leads out of the folder that is watched, or nowhere"


def leads_out(file: Path, root: Path) -> bool:
    """Whether a file or folder is reached by a link that leads out of the root, or nowhere."""
    try:
        return not file.resolve().is_relative_to(root)
    except (OSError, RuntimeError):  # a link that points to itself
        return True


class Details:
    """Films and tokens of runs below a folder; what has not changed is not read again.

    Args:
        root: folder outside which nothing is read.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._films: dict[tuple[str, str], Path] = {}
        self._tokens: dict[Path, tuple[Any, bool, dict[str, Any] | None]] = {}
        """When the tokens changed, whether all of them stand below the root, and the last iteration's."""
        self._decoders: dict[tuple[Path, bool], tuple[Pieces, str]] = {}

    def put_in(self, page: dict[str, Any], runs: Sequence[Seen]) -> None:
        """Fill `videos` and `credit` of a page's runs."""
        for run, drawn in zip(runs, page["runs"], strict=True):
            every = list(videos.in_order(run.folder))
            films = [file for file in every if self._holds(file)]
            self._films |= {(run.name, file.stem): file for file in films}
            drawn["videos"] = videos.linked(films, [_address(run.name, file) for file in films])
            if len(films) > videos.MOST:
                page["notes"].append(videos.left_out(len(films) - videos.MOST, run))
            drawn["credit"] = self._credit(run)
            page["notes"] += [
                f"The {what} of {run.name} are not shown, or not all of them: there is {AWAY}."
                for what in self._away(run, every)
            ]

    def film(self, run: str, name: str) -> Path:
        """A film that a page has named.

        Raises:
            KeyError: none has, or the film leads elsewhere by now.
        """
        file = self._films[run, name]
        if not self._holds(file):
            raise KeyError(name)
        return file

    def _holds(self, file: Path) -> bool:
        return not leads_out(file, self._root)

    def _away(self, run: Seen, films: Sequence[Path]) -> list[str]:
        """What of a run stands elsewhere."""
        found = [name for name in DETAILS if not self._holds(run.folder / name)]
        if "videos" not in found and not all(map(self._holds, films)):
            found.append("videos")
        if (
            "tokens" not in found
            and (run.folder / "tokens").is_dir()
            and not self._tokens.get(run.folder, (None, True, None))[1]
        ):
            found.append("tokens")
        return found

    def _credit(self, run: Seen) -> dict[str, Any] | None:
        """Of the last iteration; kept until there is another."""
        if not self._holds(run.folder / "tokens") or not credit.has_tokens(run):
            return None
        try:
            changed = (run.folder / "tokens").stat().st_mtime_ns
            if run.folder not in self._tokens or self._tokens[run.folder][0] != changed:
                inside = all(map(self._holds, (run.folder / "tokens").iterdir()))
                self._tokens[run.folder] = changed, inside, credit.tokens(run, self._decoder) if inside else None
            return self._tokens[run.folder][2]
        except OSError:  # they have just been deleted
            return None

    def _decoder(self, run: Seen) -> tuple["Pieces", str]:
        from proximo.views.inspect.pieces import pieces_of

        key = run.folder, (run.folder / "policy").is_dir()
        if key not in self._decoders:
            self._decoders[key] = pieces_of(run.folder)
        return self._decoders[key]


def _address(run: str, file: Path) -> str:
    """With the time, so that a browser loads a film anew that was made anew."""
    try:
        made = file.stat().st_mtime_ns
    except OSError:  # it has just been deleted
        made = 0
    return "/video?" + urlencode({"run": run, "name": file.stem, "made": made})
