"""What language experiments train: movie reviews as in `make demo-language`, or a language of five words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from proximo.errors import UserError
from proximo.inspection import metrics
from proximo.lab.language.words import FLAW, LONGEST, PROMPT, Words
from proximo.language.meter.judge_term import load_judge
from proximo.language.models.loading import load_causal_model, load_tokenizer
from proximo.language.ppo.run import train
from proximo.language.rewards.loading import load_reward_term
from proximo.language.rewards.terms import FunctionReward, RewardTerm
from proximo.language.stages import built_in_file, configure, located
from proximo.language.supervised.judge import train_judge
from proximo.language.supervised.reward import train_reward
from proximo.language.supervised.sft import train_sft
from proximo.runs.storage.files import parse_json
from proximo.runs.storage.metrics import read_metrics

MOVIES = "movie-sentiment-demo"
MOVIE_FLAW = "really"
"""A word that a flawed reward pays for: 1 in 100 of the reference's reviews has it."""

Score = Callable[[Sequence[str], Sequence[str]], list[float]]


@dataclass(frozen=True)
class Task:
    """A model, prompts, a reward and a judge that is not optimised."""

    model: Any
    prompts: Any
    rewards: Any
    judge: Any
    flaw: str
    """Words that a flawed reward pays for."""
    sound: Any
    """Rewards of which such a flaw is to be the only one."""
    good: Any
    """Rows with a `prompt` and a good `response`, to learn from without a reward."""
    loaded: Callable[[], tuple[Any, Any, RewardTerm, RewardTerm]]
    """Reference, tokenizer, reward and judge, to be asked without training."""
    response_limit: int
    prompt_limit: int = 64
    freeze: int = 0
    """Lowest layers that PPO leaves as they are."""
    preset: str = ""
    tokenizer: Any = None
    settings: Mapping[str, Any] = field(default_factory=dict)


def words(seed: int) -> Task:
    """The language of five words; each seed has another model and another taste."""
    made = Words(seed)
    model, reward, judge = made.model(), made.scorer(made.reward), made.scorer(made.judge)
    settings: dict[str, Any] = {
        "threads": 1,
        "response_limit": LONGEST,
        "missing_eos_floor": None,
        "score_clip": None,
        "batch": 64,
    }
    settings |= {"learning_rate": 1e-3, "sharing": {"mode": "full"}, "warmup": 0.0}
    settings |= {"update": {"epochs": 2, "minibatch_size": 32, "value_coefficient": 0.5, "max_grad_norm": 1.0}}
    return Task(
        model,
        [{"prompt": PROMPT}],
        [reward],
        judge,
        FLAW,
        [made.scorer(made.judge)],
        made.good(512),
        lambda: (model, made.tokenizer, FunctionReward(reward), FunctionReward(judge)),
        LONGEST,
        tokenizer=made.tokenizer,
        settings=settings,
    )


def movies(folder: Path) -> Task:
    """Movie reviews: the first three stages of the demo's preset, trained once and kept in `folder`.

    Raises:
        UserError: data or models can not be fetched.
    """
    for stage, made in (("sft", train_sft), ("reward", train_reward), ("judge", train_judge)):
        config = replace(located(configure(stage, MOVIES, str(folder))), output=str(folder / stage), minutes=None)
        made(config, console="quiet")
    return Task(
        folder / "sft",
        built_in_file("movie-sentiment/prompts_train.jsonl"),
        [str(folder / "reward")],
        str(folder / "judge"),
        MOVIE_FLAW,
        [str(folder / "reward")],
        built_in_file("movie-sentiment/sft_train.jsonl"),
        lambda: _loaded(folder),
        20,
        prompt_limit=16,
        freeze=26,
        preset=MOVIES,
        settings={"minutes": None, "learning_rate": 3e-4},
    )


def _loaded(folder: Path) -> tuple[Any, Any, RewardTerm, RewardTerm]:
    model, tokenizer = load_causal_model(str(folder / "sft")), load_tokenizer(str(folder / "sft"))
    reward = load_reward_term(str(folder / "reward"), 1.0, "reward")
    return model, tokenizer, reward, load_judge(folder / "judge", torch.device("cpu"))


def paying_for(flaw: str, bonus: float) -> Score:
    """A reward function that gives so much for each response with these words in it."""

    def pays(prompts: Sequence[str], responses: Sequence[str]) -> list[float]:
        return [bonus * (flaw in response) for response in responses]

    return pays


@dataclass(frozen=True)
class Ran:
    """One run, read."""

    rows: list[dict[str, Any]]
    results: dict[str, Any]
    texts: list[dict[str, Any]]
    """Some responses of each iteration."""
    ended: str = ""
    """Why it broke off; empty of one that came to its end."""

    def column(self, name: str) -> list[float]:
        """What was measured of it."""
        return [float(row[name]) for row in self.rows if row.get(name) is not None]

    def seconds(self) -> list[float]:
        """Of each iteration's own phases, summed up: the judge's are no cost of the algorithm."""
        total, found = 0.0, []
        for row in self.rows:
            total += sum(x for name, x in row.items() if name.startswith("seconds/") and name != "seconds/judge")
            found.append(total)
        return found


def ran(task: Task, folder: Path, *, flaw: float = 0.0, **settings: Any) -> Ran:
    """Train, or read what was trained, and give what was measured. One that breaks off is a result too.

    Args:
        task: on what.
        folder: of the run.
        flaw: what the reward pays for a response with the flaw.
        settings: see `proximo.language.train`; those of the task otherwise.
    """
    rewards = [*task.sound, paying_for(task.flaw, flaw)] if flaw else task.rewards
    chosen = {"preflight": "off", "progress": "quiet", "judge": task.judge, "replay_mb": 0, "record_mb": 0}
    chosen |= {**task.settings, **settings}
    results, ended = {}, ""
    try:
        run = train(
            task.model,
            prompts=task.prompts,
            rewards=rewards,
            tokenizer=task.tokenizer,
            preset=task.preset,
            run=folder,
            **chosen,
        )
        if run.stopped:
            raise KeyboardInterrupt(run.stopped)
        results = run.results
    except UserError as error:
        # Only a run whose record ends in an error broke off; all else is no result.
        rows = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
        if not rows or "error" not in rows[-1]:
            raise
        ended = str(error).partition(" (after")[0]
    lines = (folder / "samples.jsonl").read_text("utf-8").splitlines() if (folder / "samples.jsonl").exists() else []
    return Ran(metrics(folder), results, [parse_json(line) for line in lines], ended)
