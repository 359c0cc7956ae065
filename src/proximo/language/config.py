"""What the stages before PPO can be told. No torch here: the command line reads this before torch is loaded."""

import math
import re
from dataclasses import dataclass
from datetime import date
from typing import ClassVar, Literal

BUILTIN = "builtin:"
"""Prefix of models that Proximo gets with pip: builtin:smollm2 and builtin:minilm."""


@dataclass(frozen=True)
class StageConfig:
    """What every supervised stage can be told."""

    model: str = ""
    """Folder or hub name of the language model to start from, or builtin:smollm2."""
    data: str = ""
    """JSONL or Parquet file, or saved datasets folder."""
    validation: str = ""
    """The same, held out; empty measures nothing on it."""
    output: str = ""
    """Folder that receives model, tokenizer, config.toml and metrics.jsonl; plain `transformers` loads it."""
    preset: str = ""
    """Where these settings come from."""
    seed: int = 0
    """Of the order of rows, and of what is initialised."""
    epochs: float = 1.0
    """Passes over the data; 0.5 sees half of it."""
    steps: int | None = None
    """Gradient steps at most, the learning rate falls over them; None is all of `epochs`."""
    minutes: float | None = None
    """Training time at most, beside `steps`, without the looks at held-out rows; what it cuts is said, and the learning
    rate then falls with the time. None is no limit."""
    batch: int = 32
    """Rows per step."""
    learning_rate: float = 5e-5
    """Highest step size."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """How the step size falls to 0 after the warm-up."""
    warmup: float = 0.05
    """Share of the training over which the step size rises from 0."""
    weight_decay: float = 0.0
    """AdamW's, on matrices only."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm."""
    freeze: int = 0
    """Lowest layers that stay as they are; 0 trains everything."""
    token_limit: int = 512
    """Longest prompt and response together; longer rows are dropped, counted and said."""
    token_budget: int = 4096
    """Tokens, padding included, that go through the network at once; changes no gradient."""
    checkpoint_every: int = 500
    """Steps between two checkpoints to go on from; they are removed when the training is done."""
    keep: int = 1
    """How many of them stay until then."""
    compute: Literal["auto", "float32", "bfloat16"] = "float32"
    """Type of the matrix products: auto takes bfloat16 where the processor has instructions for it, or else float32;
    weights, losses, and the log-probs or scores they are taken of, stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where it runs; auto takes a GPU that is there."""
    threads: int | None = None
    """Threads that compute on a CPU. None takes one per core, or fewer where other programs take some of the cores when
    the run begins (then it says so)."""
    date: str = ""
    """Day that a chat template writes if it writes the date, as 2026-11-28. Empty: the day the run begins on."""
    trust_remote_code: bool = False
    """Whether the model may bring Python code of its own."""

    def __post_init__(self) -> None:
        """Refuse settings that can not mean anything.

        Raises:
            ValueError: names the setting, its value and what it must be.
        """
        for name, (holds, bound) in self._rules().items():
            if not holds:
                raise ValueError(f"{name} = {getattr(self, name)} must be {bound}")

    def _rules(self) -> dict[str, tuple[bool, str]]:
        """By setting, whether its value can mean something, and what it must be."""
        return {
            "seed": (is_seed(self.seed), SEED_BOUND),
            "epochs": (0 < self.epochs < math.inf, "positive and finite"),
            "steps": (self.steps is None or self.steps >= 1, "positive"),
            "minutes": (self.minutes is None or self.minutes > 0, "positive"),
            "batch": (self.batch >= 1, "positive"),
            "learning_rate": (_is_rate(self.learning_rate), "at least 0, and finite"),
            "warmup": (0 <= self.warmup < 1, "in [0, 1)"),
            "weight_decay": (_is_rate(self.weight_decay), "at least 0, and finite"),
            "max_grad_norm": (self.max_grad_norm > 0, "positive"),
            "freeze": (self.freeze >= 0, "at least 0"),
            "token_limit": (self.token_limit >= 2, "at least 2"),
            "token_budget": (self.token_budget >= 1, "positive"),
            "checkpoint_every": (self.checkpoint_every >= 1, "positive"),
            "keep": (self.keep >= 1, "positive"),
            "threads": (self.threads is None or self.threads >= 1, "positive"),
            "date": (is_day(self.date), "a day as 2026-11-28, or empty"),
        }


@dataclass(frozen=True)
class SFTConfig(StageConfig):
    """Supervised fine-tuning: cross-entropy on response tokens."""

    kind: ClassVar[str] = "sft"

    data: str = ""
    """JSONL or Parquet file, or saved datasets folder, with a `prompt` and a `response` per row."""
    freeze: int = 0
    """Lowest layers that stay as they are, with the embedding (and a head tied to it); 0 trains everything."""
    validation_rows: int = 512
    """Held-out rows that are looked at, the first ones."""


@dataclass(frozen=True)
class RewardConfig(StageConfig):
    """A reward model from preference pairs (Bradley & Terry 1952)."""

    kind: ClassVar[str] = "reward"

    model: str = ""
    """Folder or hub name of the language model to start from (best: the SFT stage's folder), or builtin:smollm2."""
    data: str = ""
    """JSONL or Parquet file, or saved datasets folder, with `prompt`, `chosen` and `rejected` per row; optional
    `label` (share of people who preferred chosen), `margin`, `source` and `difference`."""
    batch: int = 64
    """Pairs per step. A text that stands in several of them goes through the network once; where there are fewer texts
    than pairs, a step therefore takes neighbours of the file, and pairs that share texts should follow each other."""
    learning_rate: float = 2e-5
    """Highest step size."""
    freeze: int = 0
    """Lowest layers that stay as they are: what they say of a text is computed once and kept."""
    policy: str = ""
    """Folder of the model that PPO will start from: in the exported model the scores of its samples have mean 0 and
    variance 1. If none is named, RUN/sft, or else `model` (a judge: the responses that the rows hold)."""
    standardise_on: str = ""
    """Rows with a `prompt` for these samples. If none are named, the preset's prompts for PPO, or else those of
    `validation` or `data`."""
    part: str = ""
    """Share of the pairs to learn from, as 1/2 and 2/2: reward models that were taught by different people can check
    each other, as an ensemble (combine) or as reward and judge. Empty takes all."""
    head_learning_rate: float | None = None
    """Of the score head; None takes learning_rate."""
    centre: float = 0.01
    """Weight of the squared mean score of a pair in the loss (Eisenstein et al. 2023): the scores stay near 0."""
    layers: int | None = None
    """Lowest layers of the language model that the reward model keeps; None keeps all. What a text means is often
    clearest half-way up, and half the layers cost half the time."""
    kept_states: float = 4.0
    """Gigabytes that the frozen layers' states may take; beyond, they are computed anew each time."""
    validation_pairs: int = 4096
    """Held-out pairs that are looked at after each epoch, the first ones; the last look is at all."""
    standardise_rows: int = 256
    """How many samples."""
    prompt_limit: int = 512
    """Longest prompt of a sample in tokens; if it is not set, the preset's for PPO."""
    response_limit: int = 64
    """Cap on a sample in tokens; if it is not set, the preset's for PPO."""
    temperature: float = 1.0
    """Of these samples; if it is not set, the preset's for PPO."""

    def _rules(self) -> dict[str, tuple[bool, str]]:
        layers = self.layers
        return super()._rules() | {
            "layers": (layers is None or layers >= 1, "positive"),
            "part": (is_part(self.part), "k/n with 1 <= k <= n, as 1/2, or empty"),
            "freeze": (self.freeze >= 0 and (layers is None or self.freeze < layers), "at least 0 and below layers"),
            "head_learning_rate": (_is_rate(self.head_learning_rate or 0.0), "at least 0, and finite"),
            "centre": (_is_rate(self.centre), "at least 0, and finite"),
            "kept_states": (self.kept_states >= 0, "at least 0"),
            "validation_pairs": (self.validation_pairs >= 1, "positive"),
            "standardise_rows": (self.standardise_rows >= 2, "at least 2"),
            "prompt_limit": (self.prompt_limit >= 1, "positive"),
            "response_limit": (self.response_limit >= 1, "positive"),
            "temperature": (0 < self.temperature < math.inf, "positive and finite"),
        }


def is_day(text: str) -> bool:
    """Whether a date is a day (YYYY-MM-DD), or empty."""
    try:
        return not text or date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def is_part(text: str) -> bool:
    """Whether a share is k/n with 1 <= k <= n, or empty."""
    found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", text)
    return not text or (found is not None and int(found[1]) <= int(found[2]))


def _is_rate(value: float) -> bool:
    return 0 <= value < math.inf


SEED_BOUND = "between -2^40 and 2^40, which torch's generators have room for"


def is_seed(seed: int) -> bool:
    """Whether torch's generators have room for a seed, and for those that are made of it for each epoch."""
    return abs(seed) < 2**40


def require_seed(seed: int) -> None:
    """Refuse a seed that torch has no room for.

    Raises:
        ValueError: it is one.
    """
    if not is_seed(seed):
        raise ValueError(f"seed = {seed} must be {SEED_BOUND}")
