"""The data set `movie-sentiment`: what people thought of 10,605 sentences from movie reviews.

Every sentence was rated from -4 to 4 by 15 to 29 people, and every single rating is known (Hutto & Gilbert 2014,
vaderSentiment's ground truth). Two sentences are a preference pair: chosen is the one that people rated higher, and the
label is P(rating of chosen > rating of rejected) + P(tie) / 2 over all their ratings. These are ratings of single
texts, not choices between two: what is learnt is "reads as more positive", not "is more helpful".

Nothing is judged by what it was trained with: texts are split into train, validation and test, and the ratings of each
text into two halves. Half A labels the reward model's pairs, half B the independent judge's. Within a text the halves
are of different people; who they are is not known, so a person may stand in half A of one text and in B of another.
"""

import hashlib
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from proximo.language.demo.downloads import cache_folder, movie_ratings, whole_or_nothing

PROMPT = "Movie review:"
VERSION = "1"  # of the files' content: a change makes a new folder
_GROUP = 32  # texts whose pairs stand together in a file
_PAIRS = 256  # of a group; a step on them costs 32 texts
_TEST_PAIRS = 160


@dataclass(frozen=True)
class Snippet:
    """One sentence and the two halves of its ratings."""

    text: str
    ratings_a: tuple[int, ...]
    ratings_b: tuple[int, ...]

    def ratings(self, half: str) -> tuple[int, ...]:
        """The ratings of half "a" or "b"."""
        return self.ratings_a if half == "a" else self.ratings_b


def movie_folder() -> Path:
    """The data set's folder in the cache, made on first use (seconds after the download).

    `sft_{train,validation}.jsonl` (prompt: the first three words), `prompts_{train,test}.jsonl` (the same prompts
    alone), `pairs_{train,validation,test}.jsonl` (half A), `judge_{train,validation,test}.jsonl` (half B) and
    `about.json` with the human ceiling.

    Raises:
        UserError: the ratings can not be had, or the disk refuses.
    """
    folder = cache_folder() / "data" / f"movie-sentiment-{VERSION}"
    if not (folder / "about.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        whole_or_nothing(folder, _write)
    return folder


def human_ceiling(folder: Path | None = None) -> dict[str, float]:
    """How often half B of the ratings orders a test pair as half A does: `all` and `difference>1`, in [0, 1]."""
    about = json.loads(((folder or movie_folder()) / "about.json").read_text("utf-8"))
    return dict(about["human_ceiling"])


def snippets(rated: Sequence[tuple[str, Sequence[int]]]) -> dict[str, list[Snippet]]:
    """Splits rated texts by text (80 % train, 10 % validation, 10 % test) and ratings into halves; always the same.

    Args:
        rated: texts with their ratings; a text that comes twice is taken once, with all ratings.
    """
    merged: dict[str, list[int]] = {}
    for text, ratings in rated:
        merged.setdefault(text, []).extend(ratings)
    parts: dict[str, list[Snippet]] = {"train": [], "validation": [], "test": []}
    for text, ratings in merged.items():
        # Shuffled, as the order in the file may be one of raters; the larger half goes to A and B by turns.
        shuffled = random.Random(_hash("raters", text)).sample(ratings, len(ratings))
        cut = (len(shuffled) + _hash("half", text) % 2) // 2
        place = _hash("split", text) % 10
        name = "test" if place == 0 else "validation" if place == 1 else "train"
        parts[name].append(Snippet(text, tuple(shuffled[:cut]), tuple(shuffled[cut:])))
    for name, part in parts.items():
        part.sort(key=lambda s: _hash(name, s.text))  # an order that says nothing
    return parts


def preference(a: Sequence[int], b: Sequence[int]) -> float:
    """P(a > b) + P(a = b) / 2 for one rating of each, in [0, 1]."""
    x, y = np.asarray(a)[:, None], np.asarray(b)[None, :]
    return float((x > y).mean() + 0.5 * (x == y).mean())


def pairs(texts: Sequence[Snippet], half: str, per_group: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Preference pairs within groups of 32 texts, so that a step on consecutive pairs reads few texts.

    Args:
        texts: of one split.
        half: "a" or "b": whose ratings decide.
        per_group: pairs of a group.
        seed: of the choice of pairs; the halves draw the same pairs.

    Yields:
        Rows with prompt, chosen, rejected, label and difference (of the mean ratings); ties of the means are left out.
    """
    for start in range(0, len(texts) - _GROUP + 1, _GROUP):
        group = texts[start : start + _GROUP]
        every = [(i, j) for i in range(_GROUP) for j in range(i)]
        for i, j in random.Random(seed * 1_000_003 + start).sample(every, min(per_group, len(every))):
            a, b = group[i], group[j]
            difference = float(np.mean(a.ratings(half)) - np.mean(b.ratings(half)))
            if difference == 0.0:
                continue
            if difference < 0:
                a, b, difference = b, a, -difference
            yield {
                "prompt": PROMPT,
                "chosen": " " + a.text,
                "rejected": " " + b.text,
                "label": round(preference(a.ratings(half), b.ratings(half)), 4),
                "difference": round(difference, 4),
            }


def ceiling(texts: Sequence[Snippet], per_group: int = _TEST_PAIRS) -> dict[str, float]:
    """How often half B agrees with half A on the pairs of `texts`; a tie of half B counts one half."""
    other = {" " + s.text: float(np.mean(s.ratings_b)) for s in texts}
    agreed, wide = [], []
    for row in pairs(texts, "a", per_group):
        difference = other[row["chosen"]] - other[row["rejected"]]
        agreed.append(0.5 + 0.5 * np.sign(difference))
        wide.append(row["difference"] > 1)
    agrees, far = np.array(agreed), np.array(wide)
    return {"all": float(agrees.mean()), "difference>1": float(agrees[far].mean())}


def _write(folder: Path) -> None:
    parts = snippets(movie_ratings())
    folder.mkdir(parents=True)
    for half, name in (("a", "pairs"), ("b", "judge")):
        for split, texts in parts.items():
            _jsonl(folder / f"{name}_{split}.jsonl", pairs(texts, half, _PAIRS if split == "train" else _TEST_PAIRS))
    for split in ("train", "validation"):
        _jsonl(folder / f"sft_{split}.jsonl", _split_texts(parts[split]))
    for split in ("train", "test"):
        rows = ({"prompt": row["prompt"]} for row in _split_texts(parts[split]))
        _jsonl(folder / f"prompts_{split}.jsonl", rows)
    about = {
        "what": __doc__,
        "texts": {name: len(part) for name, part in parts.items()},
        "human_ceiling": ceiling(parts["test"]),
    }
    (folder / "about.json").write_text(json.dumps(about, indent=2), "utf-8")


def _split_texts(texts: Sequence[Snippet]) -> Iterator[dict[str, Any]]:
    """Prompt: the first three words; response: the rest. Both together are what the reward model reads."""
    for snippet in texts:
        words = snippet.text.split(" ")
        if len(words) >= 5:
            yield {"prompt": f"{PROMPT} {' '.join(words[:3])}", "response": " " + " ".join(words[3:])}


def _jsonl(path: Path, rows: Iterator[dict[str, Any]]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _hash(salt: str, text: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{salt}\0{text}".encode()).digest()[:8], "big")
