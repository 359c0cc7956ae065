"""What one iteration of a language run learnt from, token by token, as one small safetensors file."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from proximo.errors import MALFORMED, UserError

FOLDER = "tokens"
LARGEST = float(np.finfo(np.float16).max)
"""Of float16, 65,504; what lies beyond it, or is no number, is counted in `clamped`."""
_NAME = re.compile(r"(\d{6,})\.safetensors")
_TERM = "terms/"
_OF_TOKENS = ("tokens", "log_prob", "advantage")
_OF_TOKENS_IF_THERE = ("kl", "value")
_OF_RESPONSES = ("lengths", "prompt_lengths", "finished", "score", "rewarded", "divergence")


@dataclass(frozen=True)
class TokenRecord:
    """One iteration: N tokens of B responses, end to end, and M tokens of their prompts.

    The KL is kept rather than the reference's log-probs: where the two policies are near, their difference would drown
    in float16's rounding.
    """

    iteration: int
    """Counted from 0."""
    responses: int
    """Of the run, with this iteration's."""
    beta: float
    """Price of a nat of divergence, wherever it was paid."""
    price: float
    """The same in the reward; 0 where the loss pays, or nothing does."""
    combine: str
    """How the weighted terms became the score, see `language.rewards.terms.combine`."""
    weights: Mapping[str, float]
    clamped: int
    """Numbers that float16 could not hold; they lie at its end (0 where they were no numbers)."""
    tokens: np.ndarray
    """int32 `[N]`, ids; an end token belongs to its response."""
    log_prob: np.ndarray
    """float16 `[N]`, nats, of the policy that sampled."""
    advantage: np.ndarray
    """float16 `[N]`, as they were estimated, before an update scales them."""
    kl: np.ndarray | None
    """float16 `[N]`, nats: log-prob less the reference's (k1); None without a reference."""
    value: np.ndarray | None
    """float16 `[N]`, of the critic; None without one."""
    lengths: np.ndarray
    """int32 `[B]`, tokens of each response."""
    prompt_tokens: np.ndarray
    """int32 `[M]`."""
    prompt_lengths: np.ndarray
    """int32 `[B]`."""
    finished: np.ndarray
    """bool `[B]`: ended by a token of its own."""
    score: np.ndarray
    """float32 `[B]`, the terms as one number."""
    rewarded: np.ndarray
    """float32 `[B]`, the score after clip and floor."""
    divergence: np.ndarray
    """float32 `[B]`, nats: the sum of each response's KL before it was rounded; 0 without a reference."""
    terms: Mapping[str, np.ndarray]
    """float32 `[B]` by name, unweighted; NaN where a term does not apply."""

    @property
    def ref_log_prob(self) -> np.ndarray | None:
        """float32 `[N]`, nats, of the reference."""
        return None if self.kl is None else self.log_prob.astype(np.float32) - self.kl.astype(np.float32)

    @property
    def total(self) -> np.ndarray:
        """float64 `[B]`: the reward that each response was learnt from, all its tokens together."""
        return self.rewarded.astype(np.float64) - self.price * self.divergence.astype(np.float64)

    def of_responses(self, column: np.ndarray) -> list[np.ndarray]:
        """A column of all tokens `[N]`, taken apart by response."""
        return np.split(column, np.cumsum(self.lengths)[:-1])

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """Token ids of each response's prompt."""
        return [tuple(ids.tolist()) for ids in np.split(self.prompt_tokens, np.cumsum(self.prompt_lengths)[:-1])]

    def to_bytes(self) -> bytes:
        """The file."""
        names = ("prompt_tokens", *_OF_TOKENS, *_OF_TOKENS_IF_THERE, *_OF_RESPONSES)
        columns = {name: column for name in names if (column := getattr(self, name)) is not None}
        columns |= {_TERM + name: column for name, column in self.terms.items()}
        plain = ("iteration", "responses", "beta", "price", "combine", "clamped")
        about = {name: getattr(self, name) for name in plain} | {"weights": dict(self.weights)}
        return safetensors.numpy.save(columns, metadata={"about": json.dumps(about)})


def read_record(file: Path) -> TokenRecord:
    """One iteration as it was written.

    Raises:
        UserError: it is not there, or is damaged.
    """
    try:
        with safetensors.safe_open(str(file), "np") as opened:
            about = json.loads((opened.metadata() or {})["about"])
            columns = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118, no mapping
        record = _made(about, columns)
        _check(record)
    except FileNotFoundError as error:
        raise UserError(f"there is no {file}: check the path") from error
    except (*MALFORMED, OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{file} is damaged ({error}): inspect another iteration") from error
    return record


def recorded(run: Path) -> dict[int, Path]:
    """The files of a run's recorded iterations, oldest first."""
    folder = run / FOLDER
    names = [file for file in folder.iterdir() if _NAME.fullmatch(file.name)] if folder.is_dir() else []
    return dict(sorted((int(file.name.partition(".")[0]), file) for file in names))


def file_of(run: Path, iteration: int) -> Path:
    """Where an iteration's record lies."""
    return run / FOLDER / f"{iteration:06d}.safetensors"


def halved(x: np.ndarray) -> tuple[np.ndarray, int]:
    """Numbers as float16, and how many of them it could not hold."""
    lost = int((~(np.abs(x) <= LARGEST)).sum())
    return np.nan_to_num(x, nan=0.0).clip(-LARGEST, LARGEST).astype(np.float16), lost


def _made(about: Mapping[str, Any], columns: Mapping[str, np.ndarray]) -> TokenRecord:
    terms = {name.removeprefix(_TERM): column for name, column in columns.items() if name.startswith(_TERM)}
    return TokenRecord(
        iteration=int(about["iteration"]),
        responses=int(about["responses"]),
        beta=float(about["beta"]),
        price=float(about["price"]),
        combine=str(about["combine"]),
        weights={str(name): float(weight) for name, weight in about["weights"].items()},
        clamped=int(about["clamped"]),
        prompt_tokens=columns["prompt_tokens"],
        **{name: columns[name] for name in (*_OF_TOKENS, *_OF_RESPONSES)},
        **{name: columns.get(name) for name in _OF_TOKENS_IF_THERE},  # type: ignore[arg-type]
        terms=terms,
    )


def _check(record: TokenRecord) -> None:
    """Refuse columns that do not fit each other.

    Raises:
        ValueError: says which.
    """
    count = len(record.lengths)
    if count < 1 or min(record.lengths.min(), record.prompt_lengths.min()) < 0:
        raise ValueError("its lengths are none")
    sizes = {name: int(record.lengths.sum()) for name in (*_OF_TOKENS, *_OF_TOKENS_IF_THERE)}
    sizes |= dict.fromkeys(_OF_RESPONSES, count) | {"prompt_tokens": int(record.prompt_lengths.sum())}
    columns = {name: getattr(record, name) for name in sizes} | dict(record.terms)
    for name, column in columns.items():
        if column is not None and column.shape != (sizes.get(name, count),):
            raise ValueError(f"{name} has the shape {column.shape}")
        if column is not None and name not in record.terms and not np.isfinite(column).all():
            raise ValueError(f"{name} has what is no number")
    if record.terms.keys() != record.weights.keys():
        raise ValueError("its terms and weights are not the same")
